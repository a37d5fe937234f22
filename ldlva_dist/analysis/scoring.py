"""Judge a checkpoint: predictions of a split by Ray tasks, then every metric that the data set's columns allow.

Votes and truth are read here and nowhere in training.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayError
from scipy.stats import sem

from ldlva_dist.analysis import metrics
from ldlva_dist.analysis.groups import judge_groups
from ldlva_dist.analysis.trained_run import read_sample_outputs, read_stored_probabilities
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import EXTRA, DatasetInfo, list_column
from ldlva_dist.errors import ClusterError, SettingError
from ldlva_dist.method.robust_losses import sparse_noise
from ldlva_dist.runtime.waiting import own_errors
from ldlva_dist.training.evaluate import SplitReader, predict_share
from ldlva_dist.training.inputs import preparation
from ldlva_dist.training.network import restored_model

TASK_ROWS, TASK_LIMIT_S = 65_536, 1800.0
"""Rows that one task predicts at most, and how long a split may go on without one that ends."""
NO_TEST_PART = "no test part in the data set {!r}: judged on its holdout, which settings are chosen by"


def score(
    checkpoint: Checkpoint,
    dataset: Dataset,
    *,
    split: str | None = None,
    num_tasks: int = 1,
    allow_other_version: bool = False,
    predict_training: bool = False,
) -> dict[str, Any]:
    """Evaluate a checkpoint on a split (see :func:`split_to_judge`), and its uncertainties on the training data.

    With ``allow_other_version`` the data set may be any with the same classes in the same order; the uncertainties are
    judged only where it has the rows that were trained on, that is on versions of one data set, by the labels there.
    A run without neighbours has no uncertainties, and keeps no outputs of its training samples: ``predict_training``
    has them predicted, where wrong labels are known. Of a run that left a fold out, no score of labels is judged.

    Returns:
        One JSON-ready dict:
        ``checkpoint``, ``dataset``, ``split``, ``samples``, ``steps``, ``weights_crc32``;
        ``version`` and ``trained_version``: content hashes of the data judged on and trained on;
        ``given``: against the given labels: accuracy, mean_class_accuracy, macro_f1, ece, confusion (rows = labels),
        reliability and class_reliability;
        ``votes`` / ``truth``, where the data set has raters' votes / true distributions: the same against their
        largest entry, and kl, jensen_shannon, chebyshev, clark, canberra, cosine, intersection against them, with the
        standard_errors of these means;
        ``groups``, where the data set has extra columns: see :func:`ldlva_dist.analysis.groups.judge_groups`;
        ``ambiguity``, where it has votes and the run uncertainties: ``spearman``, the rank correlation of a training
        sample's uncertainty and the entropy of its votes;
        ``noise``, where wrong training labels are known (flipped, or the label is not the votes' majority):
        wrong_share, and auroc and average_precision of ``uncertainty``, ``one_minus_p_label``,
        ``one_minus_own_average`` (recipe ``elr``: 1 - the moving average's share of the label), ``sparse_noise``
        (recipe ``sop``: what its noise moves) and ``bayes`` (the best that is possible, from the true distributions).

    Raises:
        SettingError: if checkpoint and data set do not belong together, or there is no such split or task.
        ClusterError: if a prediction fails, or takes longer than the limit.
    """
    info, config, facts = dataset.info, checkpoint.config, checkpoint.facts
    checkpoint.require_data_set(info, allow_other_version=allow_other_version)
    if num_tasks < 1:
        raise SettingError(f"num_tasks must be >= 1, got {num_tasks}")
    split = split_to_judge(info, split)
    probs_NC = predict_split(checkpoint, dataset, split=split, num_tasks=num_tasks)
    result = {"checkpoint": checkpoint.uri, "dataset": info.name, "split": split, "samples": len(probs_NC)}
    result |= {"version": info.content_hash, "trained_version": facts["content_hash"]}
    result |= {"steps": facts["step"], "weights_crc32": checkpoint.weights_crc32}
    result |= against_columns(dataset, split, probs_NC)
    if config.data.fold is not None or not checkpoint.has_rows_of(info) or (wrong := wrong_labels(dataset)) is None:
        return result
    if config.uses_neighbors:
        uncertainty_N, probs_NC = read_sample_outputs(checkpoint, info)
        result["noise"] = _noise(dataset, *wrong, probs_NC, {"uncertainty": uncertainty_N})
        if (votes := _columns(dataset, "train", ["votes"])).num_columns:
            entropy_N = metrics.vote_entropy(list_column(votes["votes"]))
            result["ambiguity"] = metrics.rank_correlation(uncertainty_N, entropy_N)
    elif predict_training:
        probs_NC = predict_split(checkpoint, dataset, split="train", num_tasks=num_tasks)
        result["noise"] = _noise(dataset, *wrong, probs_NC, _own_scores(checkpoint, dataset))
    return result


def split_to_judge(info: DatasetInfo, asked: str | None = None) -> str:
    """The split that a run is judged on: ``asked``, or else the test part where there is one, or else the holdout.

    Raises:
        SettingError: for a split without samples, or a data set with neither of the two parts.
    """
    filled = [name for name, place in info.splits.items() if place.rows]
    if asked is not None and asked not in filled:
        raise SettingError(f"split must have samples ({', '.join(filled)}), got {asked!r} of {info.name!r} with none")
    split = asked or part_to_judge(info)
    if split is None:
        raise SettingError(
            f"{info.name!r} has neither a test nor a holdout part to judge on: pack it with one (make_shards.py with "
            "--test or --test-table, or --holdout 0.1), or judge with --split train"
        )
    return split


def part_to_judge(info: DatasetInfo) -> str | None:
    """The part that is there to judge a run: test, or else holdout; None where the data set has neither."""
    return next((name for name in ("test", "holdout") if info.splits[name].rows), None)


def predict_split(
    checkpoint: Checkpoint, dataset: Dataset, *, split: str, num_tasks: int, rows: range | None = None
) -> NDArray[np.float32]:
    """[n, C] class probabilities of a split in id order, or of some of its rows, by ``num_tasks`` Ray tasks at once."""
    rows = range(dataset.info.splits[split].rows) if rows is None else rows
    task, opened = ray.remote(_predict_share), ray.put(dataset)
    num_shares = max(num_tasks, -(-len(rows) // TASK_ROWS))
    waiting, running, shares = iter(range(num_shares)), dict[Any, int](), dict[int, NDArray[np.float32]]()
    while len(shares) < num_shares:
        for rank in islice(waiting, num_tasks - len(running)):
            running[task.remote(checkpoint, opened, split, rows, rank, num_shares)] = rank
        done, _ = ray.wait(list(running), timeout=TASK_LIMIT_S)
        if not done:
            for ref in running:
                ray.cancel(ref)
            raise ClusterError(f"no task that predicts split {split!r} ended within {TASK_LIMIT_S:g} s")
        shares[running.pop(done[0])] = _result(done[0], split)
    return np.concatenate([shares[rank] for rank in range(num_shares)])


def _result(ref: Any, split: str) -> NDArray[np.float32]:
    try:
        with own_errors():
            return ray.get(ref)
    except RayError as error:
        raise ClusterError(f"split {split!r} could not be predicted: {error}") from error


def _predict_share(
    checkpoint: Checkpoint, dataset: Dataset, split: str, rows: range, rank: int, num_tasks: int
) -> NDArray[np.float32]:
    config = checkpoint.config
    model = restored_model(config, len(dataset.info.class_names), checkpoint)
    model.eval()
    reader = SplitReader(dataset=dataset, split=split, preparation=preparation(config), rows=rows)
    device = torch.device("cpu")
    return predict_share(lambda x: model(x).logits_BC, reader, device=device, rank=rank, world_size=num_tasks)[1]


def wrong_labels(dataset: Dataset) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Which training labels are known to be wrong, and for which rows that is known; None if for none.

    A label is wrong if it was flipped, or if another class got the most votes; rows without votes do not count.
    """
    columns = _columns(dataset, "train", ["label", "votes", "flipped"])
    if "flipped" in columns.column_names:
        flipped = columns["flipped"].to_numpy()
        return flipped.astype(bool), np.ones(len(flipped), dtype=bool)
    if "votes" not in columns.column_names:
        return None
    votes_NC = list_column(columns["votes"])
    return votes_NC.argmax(axis=1) != columns["label"].to_numpy(), votes_NC.sum(axis=1) > 0


def against_columns(dataset: Dataset, split: str, probs_NC: NDArray[np.float32]) -> dict[str, Any]:
    """``given``, and ``votes``, ``truth`` and ``groups`` where the data set has them: see :func:`score`."""
    extra = [name for name in dataset.column_names() if name.startswith(EXTRA)]
    columns = _columns(dataset, split, ["label", "votes", "true_distribution", *extra])
    labels_N, num_classes = columns["label"].to_numpy(), len(dataset.info.class_names)
    names = {"votes": "votes", "truth": "true_distribution"}
    references = {
        name: list_column(columns[column]) for name, column in names.items() if column in columns.column_names
    }
    result: dict[str, Any] = {"given": metrics.classification(labels_N, probs_NC, num_classes=num_classes)}
    for name, weights_NC in references.items():
        known = weights_NC.sum(axis=1) > 0
        truth_NC = weights_NC[known] / weights_NC[known].sum(axis=1, keepdims=True)
        result[name] = {
            "samples": int(known.sum()),
            **metrics.classification(truth_NC.argmax(axis=1), probs_NC[known], num_classes=num_classes),
            **metrics.label_distribution(truth_NC, probs_NC[known]),
            "standard_errors": _standard_errors(truth_NC, probs_NC[known]),
        }
    if extra:
        result["groups"] = judge_groups(columns.select(extra), labels_N, probs_NC, references)
    return result


def _standard_errors(truth_NC: NDArray[Any], probs_NC: NDArray[np.float32]) -> dict[str, float]:
    """Of the means of all distances; nothing for less than two samples."""
    if len(truth_NC) < 2:
        return {}
    return {name: float(sem(values)) for name, values in metrics.label_distances(truth_NC, probs_NC).items()}


def _noise(
    dataset: Dataset,
    wrong: NDArray[np.bool_],
    known: NDArray[np.bool_],
    probs_NC: NDArray[np.float32],
    own: Mapping[str, NDArray[np.float32]],
) -> dict[str, Any]:
    """What :func:`score` tells of wrong labels, by probabilities of the training samples and by the method's own."""
    columns = _columns(dataset, "train", ["label", "true_distribution"])
    labels = columns["label"].to_numpy().astype(np.int64)
    scores = dict(own)
    scores["one_minus_p_label"] = 1 - probs_NC[np.arange(len(labels)), labels]
    # The best that is possible is known for labels that may become any other class alike.
    noise = dataset.info.source.get("noise") or "symmetric"
    is_symmetric = isinstance(noise, str) and noise.startswith("symmetric")
    if "true_distribution" in columns.column_names and dataset.info.flip_share is not None and is_symmetric:
        truth_NC = list_column(columns["true_distribution"])
        scores["bayes"] = metrics.bayes_flip_probability(truth_NC, labels, dataset.info.flip_share)
    return metrics.judge_noise_scores(scores, wrong, known)


def _own_scores(checkpoint: Checkpoint, dataset: Dataset) -> dict[str, NDArray[np.float32]]:
    """[N] what a method of others says of each label, beside its network's probability.

    ``elr``: 1 - t(label) of its moving averages t, 1 where there is none. ``sop``: half of what its noise moves, in
    [0, 1]; a wrong label's noise gives all to the label, and takes all from the right class.
    """
    info, labels_N = dataset.info, dataset.labels("train")
    if checkpoint.config.reads_own_outputs:
        average_NC = read_stored_probabilities(checkpoint, info)
        return {"one_minus_own_average": 1 - average_NC[np.arange(len(labels_N)), labels_N]}
    if checkpoint.config.learns_noise:
        noise_NF = checkpoint.read_logits(info.num_train, 1 + len(info.class_names))
        label_NC = torch.nn.functional.one_hot(torch.from_numpy(labels_N), len(info.class_names))
        more_NC, less_NC = sparse_noise(noise_NF, label_NC)
        return {"sparse_noise": ((more_NC + less_NC).sum(dim=1) / 2).numpy()}
    return {}


def _columns(dataset: Dataset, split: str, wanted: list[str]) -> pa.Table:
    """Those of the wanted columns that the manifest has, of one split."""
    names, place = dataset.column_names(), dataset.info.splits[split]
    there = [name for name in wanted if name in names]
    return dataset.columns(there, first_id=place.first_id, rows=place.rows)
