"""The method as plain tensor code, in torch and numpy only. Read `step.py` first."""
