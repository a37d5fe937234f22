"""A run's life: checks before it, its start, its signals, its end. Read `launch.py` first."""
