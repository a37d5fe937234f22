"""What a finished run found out: its scores, and which labels are doubtful. Read `trained_run.py` first."""
