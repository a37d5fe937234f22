"""The last outputs of every training sample, sharded over actors, and who asks for them.

Read `session.py` first for a worker's side, and `timed_rows.py` for a shard's: what a read sees is decided there.
"""
