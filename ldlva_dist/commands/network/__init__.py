"""Commands that use a trained network, here or elsewhere."""
