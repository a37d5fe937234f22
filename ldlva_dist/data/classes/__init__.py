"""What labels mean: names, their other spellings, and numbers that somebody has said the meaning of."""
