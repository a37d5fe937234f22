"""The steps of a run, and what is done after them: read off the loop's own rules."""

from collections.abc import Iterator
from dataclasses import dataclass

from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.stream.plan import Plan
from ldlva_dist.training.inputs import make_plan
from ldlva_dist.training.neighbors.warm_start import steps_of_one_pass
from ldlva_dist.training.schedule import due_at

FORWARD_SHARE = 1 / 3
"""Share of the forward in a training step: backward gives a gradient for the weights and one for the input."""


@dataclass(frozen=True, kw_only=True)
class RunWork:
    """What the loop will do."""

    steps: int
    samples: int
    """Trained on, repeats too."""
    evaluations: int
    evaluated_samples: int
    checkpoints: int
    """Written by steps and evaluations; those by the clock come on top."""
    checkpoints_kept: int
    """At most: the newest ones, and the best by holdout accuracy."""
    forward_samples: int
    """Forwarded before the first step, to fill the bank."""

    def seconds(self, samples_per_second: float) -> float:
        """Of training, evaluations and the bank's filling at so many samples/s of training; without the start."""
        forwarded = self.evaluated_samples + self.forward_samples
        return (self.samples + FORWARD_SHARE * forwarded) / samples_per_second


def work_of(config: RunConfig, info: DatasetInfo) -> RunWork:
    """The work of a whole run, from its first step."""
    plan, training = make_plan(config, tuple(shard.rows for shard in info.shards_of("train"))), config.training
    steps, holdout = plan.steps_for(training.epochs), info.splits["holdout"].rows
    evaluations = sum(due_at(training, plan, step).evaluation for step in _evaluation_steps(config, plan))
    every = training.checkpoint_every_steps
    checkpoints = -(-steps // every) if every else evaluations
    fills = config.uses_bank and config.bank.warm_start == "forward"
    return RunWork(
        steps=steps,
        samples=steps * plan.batch_size,
        evaluations=evaluations if holdout else 0,
        evaluated_samples=evaluations * holdout,
        checkpoints=checkpoints,
        checkpoints_kept=min(checkpoints, training.num_to_keep + (1 if holdout else 0)),
        forward_samples=len(steps_of_one_pass(plan)) * plan.batch_size if fills else 0,
    )


def _evaluation_steps(config: RunConfig, plan: Plan) -> Iterator[int]:
    """Every step at which an evaluation can be due, each once."""
    every, last, before = config.training.evaluate_every_epochs, plan.steps_for(config.training.epochs), 0
    for n in range(1, int(config.training.epochs / every) + 2):
        step = plan.steps_for(n * every)
        if before < step < last:
            before = step
            yield step
    yield last
