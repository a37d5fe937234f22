"""A trained network in use: batch prediction, export, and an endpoint."""
