"""What becomes of runs, stores and files that something happens to."""
