"""What labels mean: names, their other spellings, and numbers with a stated meaning. Read `class_index.py` first."""
