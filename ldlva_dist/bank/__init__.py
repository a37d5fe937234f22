"""The last outputs of every training sample, sharded over actors, and who asks for them. Read `service.py` first."""
