"""What batch t is, and how its images reach a worker. Read `plan.py` first."""
