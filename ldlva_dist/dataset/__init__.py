"""A packed data set: its manifest, its shards and its images. Read `manifest.py` first."""
