"""Judge a checkpoint: python jobs/evaluate.py --run RUN [--split SPLIT].

Writes evaluation.json into the run's folder (its keys: ldlva_dist/analysis/scoring.py) and prints a summary.
"""

from dataclasses import dataclass
from typing import Literal

import tyro

from ldlva_dist.records.console import say
from ldlva_dist.values.settings import Count, check_options


@dataclass(frozen=True, kw_only=True)
class EvaluationArguments:
    """What to judge."""

    run: str
    """A run's folder, or one checkpoint in it."""
    dataset: str | None = None
    """Another place of the data set the run was trained on, or with --allow-other-version a version of it."""
    allow_other_version: bool = False
    """Judge on another data set, or another version of one, than was trained on; its classes must be the same. Without
    the rows that were trained on (another data set) the uncertainties are not judged."""
    split: Literal["train", "holdout", "test"] | None = None
    """Part that the run is judged on; the test part where the data set has one, else the holdout, if not given."""
    num_tasks: Count = 2
    """Ray tasks that predict side by side."""

    def __post_init__(self) -> None:
        check_options(self)


def run_evaluate() -> None:
    """Parse, connect, score, print."""
    arguments = tyro.cli(EvaluationArguments, description=__doc__)

    from ldlva_dist.analysis.scoring import NO_TEST_PART, score, split_to_judge
    from ldlva_dist.analysis.trained_run import find
    from ldlva_dist.checkpoint.evaluation_file import write_evaluation
    from ldlva_dist.packing.verify import require_sound
    from ldlva_dist.reporting.tables import print_evaluation
    from ldlva_dist.runtime import placement

    place = find(arguments.run, arguments.dataset)
    info = place.dataset.info
    require_sound(place.dataset)
    split = split_to_judge(info, arguments.split)
    if arguments.split is None and split != "test":
        say(NO_TEST_PART.format(info.name))
    placement.connect()
    result = score(
        place.checkpoint,
        place.dataset,
        split=split,
        num_tasks=arguments.num_tasks,
        allow_other_version=arguments.allow_other_version,
    )
    uri = write_evaluation(place.run, result)
    print_evaluation(result)
    say(f"written: {uri}")
