"""How fast, and how much memory: each beside what it is compared with, in one run."""
