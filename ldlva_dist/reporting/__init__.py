"""What a person sees: terminal lines, tables, curves, contact sheets, the page. Read `terminal.py` first."""
