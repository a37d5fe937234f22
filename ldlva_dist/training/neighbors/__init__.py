"""Where the loop's neighbours come from: lookups ahead, exact images, graphs rebuilt. Read `prefetch.py` first."""
