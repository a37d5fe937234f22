"""The paper's experiments: what is compared, by which protocol, and its tables and plots. Read `protocol.py` first."""
