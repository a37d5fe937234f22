"""Commands for the first hour: is this machine well, and what does it look like."""
