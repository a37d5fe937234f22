"""Published sets in the layout that they are given away in. Read `commands.py` first."""
