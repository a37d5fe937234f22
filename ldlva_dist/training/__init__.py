"""The training step, engine, state, evaluation and loop."""
