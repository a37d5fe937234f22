"""Tables that people hold: one reader of CSV files, one reader of cells. Read `cells.py` first."""
