"""What a folder or file is, and the command that packs it; nothing is written. Read `guess.py` first."""
