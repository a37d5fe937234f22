"""From a run to its report: what reporting/report shows is read here, as plain values. N, n, C as there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.analysis import metrics
from ldlva_dist.analysis.groups import SuspectGroup, suspect_groups
from ldlva_dist.analysis.label_findings import Findings, scores
from ldlva_dist.analysis.scoring import wrong_labels
from ldlva_dist.analysis.trained_run import Opinions, lacks_features
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import EXTRA, DatasetInfo, list_column
from ldlva_dist.errors import SettingError
from ldlva_dist.packing.near_copies import CopyGroup
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.records.uncertainty_history import read_history
from ldlva_dist.reporting.report import pictures, plane, samples
from ldlva_dist.reporting.report.copies import choose_copies, labelled_apart
from ldlva_dist.reporting.report.overview import ReportedRun
from ldlva_dist.reporting.report.page import Samples

PLACE_CHARACTERS = 4
"""A picture's place among the others has so many more than that of a picture that is not there."""
POINTS_SHARE, DATA_SHARE = 0.1, 0.25
"""Shares of the page's room for the plane and for the samples' facts; the rest is for pictures."""
TRUTHS = {"true_distribution": "truth", "votes": "raters"}
UNCALIBRATED = "similarity alone: neighbors.source=exact keeps no features for the calibration network"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a page holds."""

    samples: int = 3000
    megabytes: float = 28.0
    """Size of the whole page; samples and neighbours that do not fit are left out, the least important first."""
    taken: int = 0
    """Bytes of the page that its other parts take."""

    @property
    def room(self) -> int:
        """Bytes that are left for samples, pictures and the plane."""
        return int(self.megabytes * 1e6) - self.taken


def describe_run(
    name: str, config: RunConfig, info: DatasetInfo, evaluation: dict[str, Any], run_uri: str
) -> ReportedRun:
    """A run in one glance."""
    model, optim = config.model, config.optim
    facts = [
        ("data set", info.name),
        ("version", info.content_hash[:12]),
        ("training samples", f"{info.num_train:,}"),
        ("classes", str(len(info.class_names))),
        ("network", f"{model.name}, width {model.width}"),
        ("images", f"{config.data.image_size} px, {'grey' if config.data.channels == 1 else 'colour'}"),
        ("recipe", config.loss.recipe),
        *([("neighbours K", str(config.neighbors.num_neighbors))] if config.uses_neighbors else []),
        *([("neighbours weighed by", UNCALIBRATED)] if lacks_features(config) else []),
        ("optimiser", f"{optim.name}, lr {optim.lr:g}, {optim.schedule}"),
        ("batch", str(config.data.batch_size)),
        ("epochs", f"{config.training.epochs:g}"),
        ("seed", str(config.training.seed)),
    ]
    if info.change:
        facts.insert(2, ("this version", info.change))
    return ReportedRun(
        name=name,
        facts=facts,
        metrics=read_metrics(run_uri),
        evaluation=evaluation,
        class_names=info.class_names,
        class_counts=info.class_counts["train"],
    )


def noise(dataset: Dataset, findings: Findings) -> dict[str, Any]:
    """How well every score finds the wrong labels, as in scoring.score; empty where none are known."""
    known = wrong_labels(dataset)
    return {} if known is None else metrics.judge_noise_scores(scores(findings), *known)


class HasNeighbors(Protocol):
    """What is needed of ``trained_run.TrainedRun``."""

    @property
    def dataset(self) -> Dataset: ...
    @property
    def va_N2(self) -> NDArray[np.float32]: ...
    def opinions(self, ids_n: NDArray[np.int64], /) -> Opinions: ...


def suspects(dataset: Dataset, findings: Findings) -> dict[str, dict[str, SuspectGroup]]:
    """The suspects among the training samples, by extra column and value."""
    extra = dataset.columns(_extra_names(dataset), first_id=0, rows=dataset.info.num_train)
    return suspect_groups(extra, findings.wrong_labels.is_listed_N, findings.proposed_N != findings.labels_N)


def collect(
    run_uri: str,
    trained: HasNeighbors,
    findings: Findings,
    limits: Limits,
    last_step: int | None = None,
    copy_groups: Sequence[CopyGroup] | None = None,
) -> Samples:
    """The samples to show, their pictures, the plane, and the history up to ``last_step``, the checkpoint's.

    Args:
        run_uri: The run's folder.
        trained: The run.
        findings: Its.
        limits: Of the page.
        last_step: Of the checkpoint; None takes all of the history.
        copy_groups: Images that are there more than once; None where nobody looked.

    Raises:
        SettingError: where not even a few samples fit.
    """
    dataset, info, va_N2 = trained.dataset, trained.dataset.info, trained.va_N2
    most_points = max(1, min(plane.MAX_POINTS, int(POINTS_SHARE * limits.room / plane.CHARACTERS)))
    facts, points = plane.pack_points(va_N2, findings.labels_N, findings.uncertainty_N, most_points)
    facts = {"plane": facts, "fingerprint": info.content_hash[:16], "name": run_uri.rstrip("/").rpartition("/")[2]}
    facts |= samples.pairs_as_json(findings.labels_N, findings.proposed_N, findings.wrong_labels.is_listed_N)
    copies = None if copy_groups is None else choose_copies(copy_groups)
    copied, pictured = labelled_apart(copy_groups or ()), copies.pictured if copies else []
    if copies:
        facts["copies"] = copies.as_json({})

    def as_json(shown: samples.Shown, near: dict[int, int]) -> dict[str, Any]:
        return samples.as_json(shown, findings.labels_N, va_N2, near) | facts

    count, shown = _fitting(
        lambda count: _show(run_uri, trained, findings, count, copied, last_step),
        lambda shown: samples.picture_bytes(as_json(shown, {})),
        limits,
    )
    ids_n, others = shown.ids_n, samples.pictured_neighbors(shown)
    read = dataset.images(np.concatenate([ids_n, others, np.array(pictured, dtype=np.int64)])).read
    taken = len(points) + samples.picture_bytes(as_json(shown, {})) + PLACE_CHARACTERS * len(pictured)
    small = pictures.Pictures(read, limits.room - taken)
    faces = small.add(ids_n[np.argsort(shown.ranks_n)].tolist(), pictures.FACE)
    faces |= small.add([sample for sample in pictured if sample not in faces], pictures.FACE)
    near = small.add(others.tolist(), pictures.NEIGHBOR)
    data = as_json(shown, near)
    if copies:
        data["copies"] = copies.as_json(faces)
    data["samples"]["picture"] = [faces.get(i, -1) for i in ids_n.tolist()]
    wanted = min(limits.samples, info.num_train)
    lacking = {
        "samples": (wanted - count, wanted),
        "pictures of samples": (len(set(ids_n.tolist()) - faces.keys() - small.damaged.keys()), len(ids_n)),
        "pictures of copies": (len(set(pictured) - faces.keys() - small.damaged.keys()), len(set(pictured))),
        "pictures of neighbours": (len(set(others.tolist()) - near.keys() - small.damaged.keys()), len(others)),
    }
    left_out = [f"{lacks:,} of {of:,} {what}" for what, (lacks, of) in lacking.items() if lacks > 0]
    return Samples(data=data, pictures=small.lines, plane=points, damaged=small.damaged, left_out=left_out)


def _fitting(
    show: Callable[[int], samples.Shown], size: Callable[[samples.Shown], int], limits: Limits
) -> tuple[int, samples.Shown]:
    """As many samples as their part of the page holds without pictures, and how many were asked for in the end."""
    count, room = limits.samples, DATA_SHARE * limits.room
    while (needs := size(shown := show(count))) > room:
        if count <= samples.FEWEST:
            raise SettingError(
                f"--megabytes must be >= {(limits.taken + needs / DATA_SHARE) / 1e6 + 0.05:.1f} for this run, "
                f"got {limits.megabytes:g}"
            )
        count = max(samples.FEWEST, min(count - 1, int(0.95 * count * room / needs)))
    return count, shown


def _show(
    run_uri: str,
    trained: HasNeighbors,
    findings: Findings,
    count: int,
    copied: Sequence[int],
    last_step: int | None,
) -> samples.Shown:
    """Everything but images of ``count`` samples."""
    ids_n, kinds_n = samples.choose_samples(
        findings.suspicion_N,
        findings.uncertainty_N,
        findings.wrong_labels.is_listed_N,
        findings.proposed_N != findings.labels_N,
        count,
        copied,
    )
    opinions = trained.opinions(ids_n)
    truth_name, truth_nC = _truth(trained.dataset, ids_n)
    history = read_history(run_uri, ids_n, last_step)
    return samples.Shown(
        ids_n=ids_n,
        kinds_n=kinds_n,
        keys_n=trained.dataset.take(["key"], ids_n)["key"].to_pylist(),
        extra=_extra(trained.dataset, ids_n),
        labels_n=findings.labels_N[ids_n],
        proposed_n=findings.proposed_N[ids_n],
        ranks_n=findings.rank_N[ids_n],
        uncertainty_n=findings.uncertainty_N[ids_n],
        probs_nC=findings.probs_NC[ids_n],
        aggregated_nC=findings.aggregated_NC[ids_n],
        target_nC=opinions.target_nC,
        neighbors_nK=opinions.neighbors_nK,
        shares_nK=opinions.shares_nK,
        truth_nC=truth_nC,
        truth_name=truth_name,
        epochs_E=history.epochs,
        history_En=history.uncertainty,
    )


def _truth(dataset: Dataset, ids_n: NDArray[np.int64]) -> tuple[str, NDArray[np.float32] | None]:
    """Raters' votes or true distributions of some samples, where the data set has them."""
    names = dataset.column_names()
    for column, name in TRUTHS.items():
        if column in names:
            weights_nC = list_column(dataset.take([column], ids_n)[column])
            return name, weights_nC / np.maximum(weights_nC.sum(axis=1, keepdims=True), 1e-9)
    return "", None


def _extra_names(dataset: Dataset) -> list[str]:
    return [name for name in dataset.column_names() if name.startswith(EXTRA)]


def _extra(dataset: Dataset, ids_n: NDArray[np.int64]) -> dict[str, list[str | None]]:
    names = _extra_names(dataset)
    table = dataset.take(names, ids_n)
    return {name.removeprefix(EXTRA): table[name].to_pylist() for name in names}
