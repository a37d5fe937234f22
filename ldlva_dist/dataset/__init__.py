"""A packed data set: its manifest, its shards and its images. Read `dataset.py` first."""
