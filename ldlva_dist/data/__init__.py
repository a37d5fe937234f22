"""Data sets: storage, manifest, plan, shards, sources, drawn faces, transforms, stream."""
