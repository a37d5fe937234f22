"""How Ray is used: joining a cluster, placing actors, waiting with limits. Read `placement.py` first."""
