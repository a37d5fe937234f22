"""How long something is waited for, and who is told meanwhile. Read `patience.py` first."""
