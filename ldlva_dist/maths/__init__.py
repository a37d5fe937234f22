"""The method as plain tensor code: similarity, distribution, losses, centres, metrics. Torch and numpy only."""
