"""Benchmarks of what must not grow, or must be foreseen, with the size of the data."""
