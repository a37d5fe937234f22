"""Benchmarks: one file a claim, each prints one JSON line; run them as `python -m bench.speed.step`."""
