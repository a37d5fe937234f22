"""Uncertainty-aware label distribution learning with neighbours in valence-arousal space, distributed."""
