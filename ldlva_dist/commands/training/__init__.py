"""Commands that train: what it will take, one run, a search, experiments, how it stands."""
