"""Every training sample judged by a network that did not see it, beside the judgement of one that did.

One run on all training samples, and K runs of which each leaves every Kth sample out (``data.fold``); data set,
neighbour graph and every other setting are the same files and values for all. What the K runs say of the samples that
they left out is put together in the folder of the whole run, where ``jobs/report.py`` finds it. N = training samples,
C = classes.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.analysis.label_findings import prediction_scores, scores
from ldlva_dist.analysis.metrics import noise_finding
from ldlva_dist.analysis.out_of_fold import LEFT_OUT, OUT_OF_FOLD, read_outputs, write_outputs
from ldlva_dist.analysis.scoring import predict_split, wrong_labels
from ldlva_dist.analysis.trained_run import TrainedRun
from ldlva_dist.analysis.wrong_label_list import WrongLabelList
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.experiments import cells
from ldlva_dist.experiments.tables import markdown_table
from ldlva_dist.index.graph import require_graph
from ldlva_dist.stream.plan import left_out

SIDES = ("in-sample", "out-of-fold")
EXPECTED, CONFIDENT = "as many as are expected", "confident learning"
KEYS = ("auroc", "average_precision")


@dataclass(frozen=True, kw_only=True)
class FoldRuns:
    """The settings of all runs, with their names."""

    whole: RunConfig
    folds: Sequence[RunConfig]


def plan_folds(config: RunConfig, num_folds: int) -> FoldRuns:
    """The run on all samples, and those that leave a fold out; all in OUTPUT/runs.

    Raises:
        SettingError: for more folds than training samples, or settings that have a fold already.
    """
    dataset = Dataset.open(config.data.dataset)
    if not 2 <= num_folds <= dataset.info.num_train:
        raise SettingError(f"--num-folds must be in 2..{dataset.info.num_train}, the training samples, got {num_folds}")
    if config.data.fold is not None:
        raise SettingError(f"data.fold must be none for an experiment that leaves out all, got {config.data.fold}")
    if config.uses_neighbors:
        require_graph(dataset, config.neighbors.num_neighbors)
    base = replace(
        config,
        storage_path=storage.join(config.storage_path, "runs"),
        training=replace(config.training, num_to_keep=1),
    )
    whole, *folds = (
        cells.name_run(replace(base, data=replace(base.data, fold=fold)), dataset.info.content_hash)
        for fold in (None, *((k, num_folds) for k in range(num_folds)))
    )
    return FoldRuns(whole=whole, folds=folds)


def join_folds(runs: FoldRuns) -> NDArray[np.float32]:
    """[N, C] what each sample's own run says of it; also written into the folder of the whole run."""
    info = Dataset.open(runs.whole.data.dataset).info
    probs_NC = np.empty((info.num_train, len(info.class_names)), dtype=np.float32)
    for config in runs.folds:
        rows = np.array(left_out(config.data.fold, info.num_train))
        probs_NC[rows] = read_outputs(storage.join(config.uri, LEFT_OUT), info, rows)
    write_outputs(storage.join(runs.whole.uri, OUT_OF_FOLD), info, np.arange(info.num_train), probs_NC)
    return probs_NC


def compare_sides(whole: RunConfig, out_of_fold_NC: NDArray[np.float32]) -> dict[str, Any]:
    """How well each score and each list finds the wrong labels, in-sample and out-of-fold.

    Returns:
        ``samples``; ``wrong_share`` of those of which that is known, None where it is known of none; ``scores``: by
        side and score ``auroc`` and ``average_precision``; ``lists``: by side and list ``listed``, ``expected`` (number
        of wrong labels), and ``precision`` and ``recall``, where wrong labels are known. A run without neighbours
        expects none.
    """
    checkpoint, dataset = Checkpoint.newest(whole.uri), Dataset.open(whole.data.dataset)
    if checkpoint is None:
        raise DataError(f"{whole.uri} has lost its checkpoint: run the experiment again in another --output")
    known = wrong_labels(dataset)
    found: dict[str, Any] = {"samples": dataset.info.num_train, "wrong_share": None, "scores": {}, "lists": {}}
    if known is not None:
        found["wrong_share"] = float(known[0][known[1]].mean())
    for side, (by_name, listed) in _judgements(checkpoint, dataset, out_of_fold_NC).items():
        if known is not None:
            wrong_N, known_N = known
            found["scores"][side] = {
                name: noise_finding(score_N[known_N], wrong_N[known_N]) for name, score_N in by_name.items()
            }
        flagged_N = by_name["confident_learning"] >= 0.5
        lists = {CONFIDENT: {"expected": float(flagged_N.sum()), **_judge_list(flagged_N, known)}}
        if listed is not None:
            lists[EXPECTED] = {"expected": listed.expected, **_judge_list(listed.is_listed_N, known)}
        found["lists"][side] = lists
    return found


def folds_markdown(found: Mapping[str, Any]) -> str:
    """A table of the scores and one of the lists, the sides beside each other."""
    parts = []
    if found["scores"]:
        names = list(dict.fromkeys(name for side in SIDES for name in found["scores"][side]))
        heading = ["score", *(f"AUROC {side}" for side in SIDES), *(f"average precision {side}" for side in SIDES)]
        lines = [
            [name, *(_cell(found["scores"][side].get(name, {}).get(key)) for key in KEYS for side in SIDES)]
            for name in names
        ]
        parts.append(markdown_table(heading, lines))
    heading = ["list", "side", "labels", "precision", "recall"]
    lines = [
        [name, side, f"{listed['listed']:,}", _cell(listed.get("precision")), _cell(listed.get("recall"))]
        for name in found["lists"][SIDES[0]]
        for side in SIDES
        for listed in (found["lists"][side][name],)
    ]
    parts.append(markdown_table(heading, lines))
    if found["wrong_share"] is None:
        parts.append("No label is known to be wrong here: only lengths can be told.\n")
    else:
        parts.append(f"{found['wrong_share']:.1%} of the labels are known to be wrong.\n")
    return "\n".join(parts)


def write_folds(folder: str, found: Mapping[str, Any]) -> None:
    """Write FOLDER/folds.md, folds.json, and folds.csv with a line for each side and score."""
    text = json.dumps(found, indent=1) + "\n"
    storage.write_bytes(storage.join(folder, "folds.json"), text.encode())
    storage.write_bytes(storage.join(folder, "folds.md"), folds_markdown(found).encode())
    lines = [
        {"side": side, "score": name, **values}
        for side, by_name in found["scores"].items()
        for name, values in by_name.items()
    ]
    table = pa.table({key: [line[key] for line in lines] for key in ("side", "score", *KEYS)})
    sink = io.BytesIO()
    pyarrow.csv.write_csv(table, sink)
    storage.write_bytes(storage.join(folder, "folds.csv"), sink.getvalue())


def _judgements(
    checkpoint: Checkpoint, dataset: Dataset, out_of_fold_NC: NDArray[np.float32]
) -> Mapping[str, tuple[dict[str, NDArray[Any]], WrongLabelList | None]]:
    """By side: every score, and the list, where the run has neighbours to count by."""
    if checkpoint.config.uses_neighbors:
        trained = TrainedRun(checkpoint, dataset)
        both = [trained.findings(), trained.findings(out_of_fold_NC)]
        found = {side: (scores(each), each.wrong_labels) for side, each in zip(SIDES, both, strict=True)}
        del found[SIDES[1]][0]["uncertainty"]  # a sample that was left out has none
        return found
    in_sample_NC, labels_N = predict_split(checkpoint, dataset, split="train", num_tasks=1), dataset.labels("train")
    return {
        side: (prediction_scores(probs_NC, labels_N), None)
        for side, probs_NC in zip(SIDES, (in_sample_NC, out_of_fold_NC), strict=True)
    }


def _judge_list(
    is_listed_N: NDArray[np.bool_], known: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None
) -> dict[str, float]:
    found: dict[str, float] = {"listed": int(is_listed_N.sum())}
    if known is not None:
        wrong_N, known_N = known
        hits = int((is_listed_N & wrong_N & known_N).sum())
        found["precision"] = hits / max(1, int((is_listed_N & known_N).sum()))
        found["recall"] = hits / max(1, int((wrong_N & known_N).sum()))
    return found


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
