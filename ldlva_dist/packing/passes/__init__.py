"""The three passes of packing, each in pieces: survey, order, write. Read `pack.py` first, which runs them."""
