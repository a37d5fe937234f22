"""What a training worker does. Read `loop.py` first."""
