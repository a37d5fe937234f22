"""Several hosts on one machine, made of Linux name spaces, with a cluster and a store. Read `cluster.py` first."""
