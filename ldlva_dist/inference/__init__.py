"""A trained network in use: batch prediction, export, and an endpoint. Read `description.py` first."""
