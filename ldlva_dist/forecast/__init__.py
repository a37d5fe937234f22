"""What a run will take, before it starts: its work, bytes and memory by arithmetic, and its speed by a probe."""
