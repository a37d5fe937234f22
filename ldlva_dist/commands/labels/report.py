"""See what a run found out: python jobs/report.py --run RUN [--baseline OTHER].

Writes RUN/report.html, one page that needs nothing else (open it in a browser, or from a bucket), and
RUN/uncertainty.parquet with every training sample (its columns: analysis/label_findings.py). Marked samples are
exported from the page as a CSV, which `python jobs/make_shards.py relabel` makes a new version of the data set of.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import tyro

from ldlva_dist.errors import SettingError
from ldlva_dist.records.console import say
from ldlva_dist.reporting.terminal import print_lines
from ldlva_dist.values.settings import Count, check_options, require

if TYPE_CHECKING:
    from ldlva_dist.analysis.label_findings import Findings
    from ldlva_dist.analysis.trained_run import Place, TrainedRun
    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.packing.near_copies import CopyGroup
    from ldlva_dist.reporting.report.overview import ReportedRun
    from ldlva_dist.reporting.report.page import Samples

FILE = "report.html"


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """What to show."""

    run: str
    """A run's folder."""
    baseline: str | None = None
    """Another run's folder, judged on the same split of the same data, to compare with."""
    dataset: str | None = None
    """Another place of the data set the run was trained on."""
    split: Literal["train", "holdout", "test"] | None = None
    """Part that the runs are judged on; the test part where the data set has one, else the holdout, if not given."""
    samples: int = 3000
    """Samples on the page: half probably mislabelled, the others most uncertain and most confident."""
    megabytes: float = 28.0
    """Size of the page; samples and pictures of neighbours that do not fit are left out, the least important first."""
    duplicates: str | None = None
    """List of images that are there more than once, as make_shards.py verify --duplicates writes it, to be shown."""
    num_tasks: Count = 2
    """Ray tasks that predict side by side where a run was not evaluated yet."""

    def __post_init__(self) -> None:
        check_options(self)
        require(self.megabytes >= 1, f"--megabytes must be >= 1, got {self.megabytes:g}")


def run_report() -> None:
    """Parse, and make it."""
    make_report(tyro.cli(ReportArguments, description=__doc__))


def make_report(arguments: ReportArguments) -> "Findings | None":
    """Judge, collect, write; what the run found out of its labels, where it has neighbours."""
    from ldlva_dist import storage
    from ldlva_dist.analysis.out_of_fold import OUT_OF_FOLD_TAKEN, find_out_of_fold
    from ldlva_dist.analysis.scoring import NO_TEST_PART, split_to_judge
    from ldlva_dist.analysis.trained_run import TrainedRun, find
    from ldlva_dist.packing.near_copies import read_copy_groups
    from ldlva_dist.packing.verify import require_sound
    from ldlva_dist.reporting.report.collect import suspects
    from ldlva_dist.reporting.report.overview import overview
    from ldlva_dist.reporting.report.page import render
    from ldlva_dist.reporting.report.rounds import relabel_rounds

    ours = find(arguments.run, arguments.dataset)
    theirs = find(arguments.baseline, arguments.dataset) if arguments.baseline else None
    info = ours.dataset.info
    require_sound(ours.dataset)
    split = split_to_judge(info, arguments.split)
    if arguments.split is None and split != "test":
        say(NO_TEST_PART.format(info.name))
    if theirs:
        check_comparable(ours.dataset, theirs.dataset, split)
    if arguments.duplicates and not ours.checkpoint.config.uses_neighbors:
        raise SettingError(f"--duplicates must be left out for a run that shows no samples, got {arguments.duplicates}")
    copies = read_copy_groups(storage.absolute(arguments.duplicates), ours.dataset) if arguments.duplicates else None
    run = look_at(ours, split, arguments.num_tasks)
    baseline = look_at(theirs, split, arguments.num_tasks) if theirs else None
    trained = TrainedRun(ours.checkpoint, ours.dataset) if ours.checkpoint.config.uses_neighbors else None
    out_of_fold_NC = find_out_of_fold(ours.run, ours.dataset) if trained else None
    findings = trained.findings(out_of_fold_NC) if trained else None
    if out_of_fold_NC is not None:
        say(OUT_OF_FOLD_TAKEN)
        run = replace(run, facts=[*run.facts, ("labels judged by", OUT_OF_FOLD_TAKEN)])
    wrong_labels = findings and findings.wrong_labels
    run = replace(run, rounds=relabel_rounds(ours.dataset, findings), wrong_labels=wrong_labels)
    print_lines(str(each) for each in run.rounds)
    print_lines(wrong_labels.lines(info.class_names) if wrong_labels else ())
    shown = None
    if trained and findings:
        run = replace(run, suspects=suspects(ours.dataset, findings))
        shown = samples_of(arguments, run, baseline, ours, trained, findings, copies)
    page = render(overview(run, baseline), shown)
    uri = storage.join(ours.run, FILE)
    storage.write_bytes(uri, page)
    say(f"written: {uri}, {len(page) / 1e6:.1f} MB")
    return findings


def check_comparable(ours: "Dataset", theirs: "Dataset", split: str) -> None:
    """SettingError where the runs would be judged on other faces or labels; versions may share those of a split."""
    ours_is, theirs_is = ours.info, theirs.info
    is_same = ours_is.class_names == theirs_is.class_names and (
        ours_is.content_hash == theirs_is.content_hash
        or (ours_is.rows_hash == theirs_is.rows_hash and (ours.labels(split) == theirs.labels(split)).all())
    )
    if not is_same:
        raise SettingError(
            f"--baseline must be a run on the same {split} samples, labels and classes as --run "
            f"({ours_is.name!r}, {ours_is.content_hash[:12]}), got {theirs_is.name!r}, {theirs_is.content_hash[:12]}"
        )


def look_at(place: "Place", split: str, num_tasks: int) -> "ReportedRun":
    """A run in one glance."""
    from ldlva_dist.reporting.report.collect import describe_run

    evaluation = evaluate(place, split, num_tasks)
    name = place.run.rstrip("/").rpartition("/")[2]
    return describe_run(name, place.checkpoint.config, place.dataset.info, evaluation, place.run)


def evaluate(place: "Place", split: str, num_tasks: int) -> dict[str, Any]:
    """The run's evaluation.json if it is of this checkpoint and split, or one made as jobs/evaluate.py does.

    Only one of the split that runs are judged on is written: jobs/export.py takes the model's figures from that file.
    """
    from ldlva_dist import storage
    from ldlva_dist.analysis.scoring import part_to_judge, score
    from ldlva_dist.checkpoint.evaluation_file import EVALUATION, write_evaluation
    from ldlva_dist.reporting.report.overview import is_evaluation
    from ldlva_dist.runtime import placement

    info, uri = place.dataset.info, storage.join(place.run, EVALUATION)
    checkpoint = place.checkpoint
    checkpoint.require_data_set(info)
    wanted = {"steps": checkpoint.facts["step"], "weights_crc32": checkpoint.weights_crc32}
    wanted |= {"version": info.content_hash, "split": split}
    found: Any = _json(storage.read_bytes(uri)) if storage.exists(uri) else None
    if is_evaluation(found, len(info.class_names)) and wanted.items() <= found.items():
        return found
    say(f"evaluating {checkpoint.uri}")
    placement.connect()
    result = score(checkpoint, place.dataset, split=split, num_tasks=num_tasks)
    if split == part_to_judge(info):
        write_evaluation(place.run, result)
    return result


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None  # damaged, as by a full disk: the run is judged again


def samples_of(  # noqa: PLR0913 - what a page is made of
    arguments: ReportArguments,
    run: "ReportedRun",
    baseline: "ReportedRun | None",
    place: "Place",
    trained: "TrainedRun",
    findings: "Findings",
    copies: "Sequence[CopyGroup] | None",
) -> "Samples":
    """Write uncertainty.parquet, and collect what the page shows of single samples."""
    from ldlva_dist.analysis.label_findings import write_uncertainty
    from ldlva_dist.reporting.report.collect import Limits, collect, noise
    from ldlva_dist.reporting.report.overview import overview
    from ldlva_dist.reporting.report.page import NOTHING, render

    say(f"written: {write_uncertainty(place.run, place.dataset, findings)}")
    bayes = {name: found for name, found in run.evaluation.get("noise", {}).items() if name == "bayes"}
    run.evaluation["noise"] = noise(place.dataset, findings) | bayes
    taken = len(render(overview(run, baseline), NOTHING))
    limits = Limits(samples=arguments.samples, megabytes=arguments.megabytes, taken=taken)
    shown = collect(place.run, trained, findings, limits, trained.facts["step"], copies)
    if shown.left_out:
        say(f"left out of the page, to stay within --megabytes {arguments.megabytes:g}: {'; '.join(shown.left_out)}")
    if shown.damaged:
        sample, reason = next(iter(shown.damaged.items()))
        say(f"damaged images, blank on the page: {len(shown.damaged)}; the first is sample {sample}: {reason}")
    return shown
