"""The learning rate as a pure function of the step: nothing to save, nothing to resume."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up to ``peak``, then steps down, or a cosine to 0, or both."""

    peak: float
    total_steps: int
    warmup_steps: int = 0
    decay_steps: tuple[int, ...] = ()
    """Boundaries; at the boundary itself the value is still the old one, as in Keras."""
    decay_factor: float = 1.0
    cosine: bool = False

    def rate(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        rate = self.peak * self.decay_factor ** sum(step > boundary for boundary in self.decay_steps)
        if self.cosine:
            progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
            rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return rate
