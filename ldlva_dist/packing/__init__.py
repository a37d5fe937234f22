"""From a user's files to a data set, and from one data set to the next version. Read `passes/pack.py` first."""
