"""What people type: the program ``ldlva`` and its commands, which jobs/ has as scripts. Read `program.py` first."""
