"""What a run will take, before it starts: work, bytes, memory, and speed by a probe. Read `outlook.py` first."""
