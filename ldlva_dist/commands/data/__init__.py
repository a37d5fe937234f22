"""Commands that make a data set, its valence-arousal and its neighbours."""
