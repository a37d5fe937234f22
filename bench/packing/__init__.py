"""How fast sets of known layouts are packed."""
