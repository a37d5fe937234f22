"""What a run writes while it goes: metrics, uncertainties, ids, trackers. Read `metrics_log.py` first."""
