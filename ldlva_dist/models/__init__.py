"""Backbones and the calibration network. Read `ldlva.py` first."""
