"""What a value must be: kinds, choices and ranges, for settings and for files. Read `settings.py` first."""
