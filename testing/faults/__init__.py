"""Runs that something happens to: the cluster, the faults, and the checks after them. Read `harness.py` first."""
