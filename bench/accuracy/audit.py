"""Claim: one command finds the wrong labels of a set nobody has tuned anything for, in minutes on two cores.

jobs/audit.py on FER+ (the original labels; a label is wrong if the votes' majority is another class): under 25 minutes,
and of the first 2,000 labels at least 75 % wrong. On drawn faces with 30 % of the labels flipped: of as many labels as
were flipped, the most suspicious ones, at least 85 % are; ``possible`` is what the true distributions would give, as
drawn faces are ambiguous. Needs FER+ (--source); truth is read after the audits alone.
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tyro
from numpy.typing import NDArray

from bench.accuracy.sets import VOTED
from bench.common import report
from ldlva_dist.analysis.metrics import bayes_flip_probability
from ldlva_dist.analysis.scoring import wrong_labels
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import list_column

JOB = Path(__file__).parents[2] / "jobs" / "audit.py"
FIRST, WANTED, WANTED_DRAWN, MINUTES = 2000, 0.75, 0.85, 25.0


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to audit, and where."""

    source: str = "../shared/data/ferplus"
    """Folder with train.parquet."""
    output: str = "runs/audit-bench"
    """Must be new: an audit that is there is not made again, and takes no time."""
    faces: int = 3000
    """Drawn ones."""
    sets: tuple[str, ...] = ("drawn", "ferplus")
    limit_s: float = 3 * 3600.0


def main(arguments: Arguments) -> None:
    """Audit both, judge the lists, and print one JSON line."""
    columns = ["--key-column", "name", "--label-column", "fer2013_label", "--votes", *VOTED, "--standardize-va"]
    sources = {
        "drawn": ["faces", "--train", str(arguments.faces), "--test", "0", "--flip-share", "0.3"],
        "ferplus": ["parquet", "--train", f"{arguments.source}/train.parquet", *columns],
    }
    found = {name: audit(name, sources[name], arguments) for name in arguments.sets}
    drawn, ferplus = found.get("drawn"), found.get("ferplus")
    report(
        "audit",
        ok=drawn is not None
        and ferplus is not None
        and drawn["precision_at_wrong"] >= WANTED_DRAWN
        and ferplus["precision_of_first"] >= WANTED
        and ferplus["minutes"] < MINUTES,
        first=FIRST,
        **found,
    )


def audit(name: str, source: list[str], arguments: Arguments) -> dict[str, Any]:
    """Run the job; what its list is worth, and how long it took."""
    output = Path(arguments.output).absolute() / name
    began = time.monotonic()
    command = [sys.executable, str(JOB), *source, "--output", str(output)]
    subprocess.run(command, check=True, timeout=arguments.limit_s)
    minutes = (time.monotonic() - began) / 60
    order_N = pq.read_table(output / "run" / "uncertainty.parquet", columns=["rank"])["rank"].to_numpy().argsort()
    dataset = Dataset.open(str(output / "data"))
    known = wrong_labels(dataset)
    assert known is not None, "both sets say which labels are wrong"
    found = judge(order_N, *known) | {"minutes": minutes} | expectations(output, *known)
    return found | ({"possible": possible(dataset, *known)} if dataset.info.flip_share else {})


def expectations(output: Path, wrong_N: NDArray[np.bool_], known_N: NDArray[np.bool_]) -> dict[str, float]:
    """How many labels are listed as wrong, and how many of them are."""
    listed_N = pq.read_table(output / "run" / "uncertainty.parquet", columns=["listed"])["listed"].to_numpy()
    return {"listed": int(listed_N.sum()), "precision_of_listed": float(wrong_N[listed_N & known_N].mean())}


def possible(dataset: Dataset, wrong_N: NDArray[np.bool_], known_N: NDArray[np.bool_]) -> float:
    """Precision, at as many labels as are wrong, of the best order there is: by the true distributions."""
    columns = dataset.columns(["label", "true_distribution"], rows=dataset.info.num_train)
    labels_N, share = columns["label"].to_numpy().astype(np.int64), dataset.info.flip_share
    assert share is not None, "the faces are drawn"
    flipped_N = bayes_flip_probability(list_column(columns["true_distribution"]), labels_N, share)
    return judge(np.argsort(-flipped_N, kind="stable"), wrong_N, known_N)["precision_at_wrong"]


def judge(order_N: NDArray[np.int64], wrong_N: NDArray[np.bool_], known_N: NDArray[np.bool_]) -> dict[str, Any]:
    """Precision of a list, its samples without truth left out."""
    wrong_n = wrong_N[order_N][known_N[order_N]]
    count = int(wrong_n.sum())
    return {
        "labels": len(order_N),
        "wrong_share": count / len(wrong_n),
        "precision_of_first": float(wrong_n[:FIRST].mean()),
        "precision_at_wrong": float(wrong_n[:count].mean()),
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
