"""Backbones and the calibration network."""
