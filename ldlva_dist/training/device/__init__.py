"""What passes between the host's memory and the device's. Read `copies.py` first."""
