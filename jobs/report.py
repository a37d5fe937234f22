"""See what a run found out: python jobs/report.py --run RUN [--baseline OTHER].

Writes RUN/report.html, one page that needs nothing else (open it in a browser, or from a bucket), and
RUN/uncertainty.parquet with every training sample (columns: ldlva_dist/findings.py). Marked samples are exported from
the page as a CSV, which `python jobs/make_shards.py relabel` makes a new version of the data set of.
"""

import json
from dataclasses import dataclass
from typing import Any

import tyro

from ldlva_dist import placement
from ldlva_dist.data import storage
from ldlva_dist.data.manifest import DatasetInfo, read_info
from ldlva_dist.errors import SettingError
from ldlva_dist.findings import write_uncertainty
from ldlva_dist.reporting.report.overview import Run, overview
from ldlva_dist.reporting.report.page import Samples, render
from ldlva_dist.run_report import Limits, collect, describe, noise
from ldlva_dist.scoring import score
from ldlva_dist.terminal import run_job
from ldlva_dist.trained_run import TrainedRun
from ldlva_dist.training.state import last_checkpoint, read_config, read_facts

FILE = "report.html"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to show."""

    run: str
    """A run's folder."""
    baseline: str | None = None
    """Another run's folder, judged on the same split, to compare with."""
    dataset: str | None = None
    """Another place of the data set the run was trained on."""
    split: str = "test"
    """What the runs are judged on."""
    samples: int = 3000
    """Samples on the page: half probably mislabelled, the others most uncertain and most confident."""
    megabytes: float = 28.0
    """Size of the page; pictures of neighbours that do not fit are left out, those that matter least first."""
    num_tasks: int = 2
    """Ray tasks that predict side by side where a run was not evaluated yet."""

    def __post_init__(self) -> None:
        if self.megabytes < 1:
            raise SettingError(f"--megabytes must be >= 1, got {self.megabytes:g}")


def main() -> None:
    """Parse, judge, collect, write."""
    arguments = tyro.cli(Arguments, description=__doc__)
    run, checkpoint, dataset, info = look_at(arguments.run, arguments)
    baseline = look_at(arguments.baseline, arguments)[0] if arguments.baseline else None
    shown = None
    if read_config(checkpoint).uses_neighbors:
        shown = samples_of(arguments, run, checkpoint, dataset, info)
    page = render(overview(run, baseline), shown)
    uri = storage.join(arguments.run, FILE)
    storage.write_bytes(uri, page)
    print(f"written: {uri}, {len(page) / 1e6:.1f} MB", flush=True)


def look_at(run_uri: str, arguments: Arguments) -> tuple[Run, str, str, DatasetInfo]:
    """A run in one glance, its last checkpoint, and the data set it was trained on."""
    checkpoint = last_checkpoint(run_uri)
    if checkpoint is None:
        raise SettingError(f"run must be a folder with a finished checkpoint, got {run_uri!r}")
    config = read_config(checkpoint)
    dataset = arguments.dataset or config.data.dataset
    info = read_info(dataset)
    evaluation = evaluate(run_uri, checkpoint, dataset, info, arguments)
    name = run_uri.rstrip("/").rpartition("/")[2]
    return describe(name, config, info, evaluation, run_uri), checkpoint, dataset, info


def evaluate(run_uri: str, checkpoint: str, dataset: str, info: DatasetInfo, arguments: Arguments) -> dict[str, Any]:
    """The run's evaluation.json if it is of this checkpoint and split, or one made as jobs/evaluate.py does."""
    uri = storage.join(run_uri, "evaluation.json")
    step = read_facts(checkpoint, info)["step"]
    if storage.exists(uri):
        found = json.loads(storage.read_bytes(uri))
        is_of_this = (found["steps"], found["version"], found["split"]) == (step, info.content_hash, arguments.split)
        if is_of_this and "reliability" in found["given"]:  # which earlier versions did not write
            return found
    print(f"evaluating {checkpoint}", flush=True)
    placement.connect()
    result = score(checkpoint, dataset, split=arguments.split, num_tasks=arguments.num_tasks)
    storage.write_bytes(uri, (json.dumps(result, indent=2) + "\n").encode())
    return result


def samples_of(arguments: Arguments, run: Run, checkpoint: str, dataset: str, info: DatasetInfo) -> Samples:
    """Write uncertainty.parquet, and collect what the page shows of single samples."""
    trained = TrainedRun(checkpoint, dataset, info)
    findings = trained.findings()
    print(f"written: {write_uncertainty(arguments.run, dataset, info, findings)}", flush=True)
    bayes = {name: found for name, found in run.evaluation.get("noise", {}).items() if name == "bayes"}
    run.evaluation["noise"] = noise(dataset, info, findings) | bayes
    return collect(arguments.run, trained, findings, Limits(samples=arguments.samples, megabytes=arguments.megabytes))


if __name__ == "__main__":
    run_job(main)
