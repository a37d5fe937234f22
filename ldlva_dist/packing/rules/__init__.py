"""Rules that need the rows of a whole data set: labels, keys, and what may be lost. Read `budget.py` first."""
