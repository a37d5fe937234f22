"""The learning rate of a step and what is due after it, as pure functions: nothing to save, nothing to resume."""

import math
from dataclasses import dataclass

from ldlva_dist.config import TrainingConfig
from ldlva_dist.records.uncertainty_history import MOST
from ldlva_dist.stream.plan import Plan


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


@dataclass(frozen=True, kw_only=True)
class Due:
    """What is to be done after a step."""

    log: bool
    evaluation: bool
    history: bool
    """Whether the uncertainties of this evaluation are kept."""
    checkpoint: bool


def due_at(training: TrainingConfig, plan: Plan, step: int, *, save: bool = False) -> Due:
    """What is due when ``step`` steps are done, a checkpoint at least with ``save``; everything is at the last step."""
    last = step == plan.steps_for(training.epochs)
    nth = max(1, round(plan.epoch_of(step) / training.evaluate_every_epochs))
    evaluation = last or step == plan.steps_for(nth * training.evaluate_every_epochs)
    stride = math.ceil(training.epochs / training.evaluate_every_epochs / MOST)
    every = training.checkpoint_every_steps
    checkpoint = save or last or (step % every == 0 if every else evaluation)
    return Due(
        log=evaluation or checkpoint or step % training.log_every_steps == 0,
        evaluation=evaluation,
        history=last or (evaluation and nth % stride == 0),
        checkpoint=checkpoint,
    )
