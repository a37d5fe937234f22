"""Where rows come from: one class a layout, each reads any stretch of its rows. Read `rows.py` first."""
