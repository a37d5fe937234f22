"""Valence-arousal for a data set that lacks it, by a user's own model. Read `annotate.py` first."""
