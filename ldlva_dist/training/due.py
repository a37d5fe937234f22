"""What is to be done after a step besides the step itself."""

import math
from dataclasses import dataclass

from ldlva_dist.config import TrainingConfig
from ldlva_dist.records.uncertainty_history import MOST
from ldlva_dist.stream.plan import Plan


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
