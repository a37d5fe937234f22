"""Tables that people hold: what a cell means, whatever wrote it. Read `cells.py` first."""
