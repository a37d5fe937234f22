"""What is wrong with a machine, its packages, its storage or its cluster, and the cure of each in one line."""
