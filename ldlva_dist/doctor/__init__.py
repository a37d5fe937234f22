"""Checks of a machine, its packages, its storage and its cluster, with the cure of each. Read `checks.py` first."""
