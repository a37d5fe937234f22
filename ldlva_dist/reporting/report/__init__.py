"""The report of a run: one self-contained HTML page. Read `collect.py` first."""
