"""What a person sees: curves, contact sheets, tables."""
