"""Drawn faces whose true label distributions are known, for the demo and tests. Read `faces.py` first."""
