"""A run's finished checkpoint: where it lies and, for a run with neighbours, what it found out of each training sample.

What its neighbours say is recomputed from the table, the bank, the network and the neighbour graph as the last step
left them; exact neighbours leave no features for the calibration network, so that similarity alone weighs
them. N = training samples, n, m = some of them, K = neighbours, C = classes, V = feature width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldlva_dist import storage
from ldlva_dist.analysis import suspicion
from ldlva_dist.analysis.label_doubt import doubt_by_neighbors
from ldlva_dist.analysis.label_findings import Findings
from ldlva_dist.bank.checkpoint_parts import GRAPH, newest
from ldlva_dist.bank.records import BankRows, decode_features
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.errors import SettingError
from ldlva_dist.index.graph import graph_infos, read_graph
from ldlva_dist.method import losses, targets
from ldlva_dist.method.posterior import Evidence, judge_labels, shares_of_labels
from ldlva_dist.method.similarity import log_similarity
from ldlva_dist.training.build import bank_spec
from ldlva_dist.training.network import restored_model

PAIRS = 1 << 18
"""Pairs of a sample and a neighbour that are looked at together: V = 512 takes half a GB."""


@dataclass(frozen=True, kw_only=True)
class Opinions:
    """What the neighbours of some samples say, as the method weighs them."""

    neighbors_nK: NDArray[np.int64]
    """Their ids, nearest first."""
    shares_nK: NDArray[np.float32]
    """Contribution of each to what they say; a row sums to 1, or to 0 where none of them was ever reached."""
    aggregated_nC: NDArray[np.float32]
    """Their joint distribution; zeros where none was reached."""
    target_nC: NDArray[np.float32]
    """The training target: made of it, the label and the uncertainty; or for ``posterior`` the label posterior, which
    reads of the neighbours their labels."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A run, its checkpoint and its data, by addresses that mean the same on every node of a cluster."""

    run: str
    checkpoint: Checkpoint
    """Its last finished one."""
    dataset: Dataset


def find(run: str, dataset: str | None) -> Place:
    """Where a run (or one checkpoint) lies, and ``dataset`` or else the data that it was trained on.

    Raises:
        SettingError: for a folder without a finished checkpoint.
        DataError: for what is no data set.
    """
    run_uri = storage.absolute(run)
    checkpoint = Checkpoint.newest(run_uri)
    if checkpoint is None:
        raise SettingError(f"run must be a folder with a finished checkpoint, got {run!r}")
    opened = Dataset.open(storage.absolute(dataset or checkpoint.config.data.dataset))
    return Place(run=run_uri, checkpoint=checkpoint, dataset=opened)


def read_sample_outputs(checkpoint: Checkpoint, info: DatasetInfo) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a run with neighbours put out last for every training sample.

    Returns:
        [N] uncertainties, the weight of the neighbours in the sample's target, in (0, 1).
        [N, C] class probabilities as they are stored; zeros where the sample was never reached.
    """
    logit_N = checkpoint.read_logits(info.num_train)
    return logit_N.sigmoid().numpy(), read_stored_probabilities(checkpoint, info)


def read_stored_probabilities(checkpoint: Checkpoint, info: DatasetInfo) -> NDArray[np.float32]:
    """[N, C] what the bank of a run holds of every training sample; zeros where it was never reached."""
    return _read_bank(checkpoint, info)[0].records["probs"].astype(np.float32)


def lacks_features(config: RunConfig) -> bool:
    """Whether the run has a calibration network, but a bank without the features to ask it about once more."""
    return config.uses_neighbors and config.loss.calibration and config.neighbors.source == "exact"


class TrainedRun:
    """A checkpoint of a run with neighbours, and the data set it was trained on."""

    def __init__(self, checkpoint: Checkpoint, dataset: Dataset) -> None:
        """Read table, bank and weights.

        Raises:
            SettingError: for a run without neighbours, or on other data than ``dataset``.
        """
        config, info = checkpoint.config, dataset.info
        if not config.uses_neighbors:
            raise SettingError(
                f"loss.recipe must be official, paper or posterior, got {config.loss.recipe!r} of {checkpoint.uri}"
            )
        checkpoint.require_data_set(info)
        self.facts = checkpoint.facts
        self._config, self.dataset = config, dataset
        self._logit_N = checkpoint.read_logits(info.num_train)
        outputs, graphs = _read_bank(checkpoint, info)
        self._records = outputs.records
        found_anew = graphs if config.index.space == "feature" else {}
        last = max(found_anew, key=lambda name: int(name.removeprefix(GRAPH)), default=None)
        self._graph_NK = None if last is None else found_anew[last]
        self._model = restored_model(config, len(info.class_names), checkpoint)
        self._model.eval()
        self.labels_N = dataset.labels("train")
        self.va_N2 = dataset.va(0, info.num_train)

    @property
    def uncertainty_N(self) -> NDArray[np.float32]:
        """Uncertainty of every training sample."""
        return self._logit_N.sigmoid().numpy()

    @property
    def num_neighbors(self) -> int:
        """K of the run."""
        return self._config.neighbors.num_neighbors

    def opinions(self, ids_n: NDArray[np.int64]) -> Opinions:
        """What the neighbours of some samples, in ascending order, say."""
        probs_NC = self._records["probs"]
        pieces = [self._opinions(*part, probs_NC) for part in self._graph(ids_n, self.num_neighbors)]
        return Opinions(
            **{name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in Opinions.__annotations__}
        )

    def embeddings(self, ids_n: NDArray[np.int64]) -> NDArray[np.float32]:
        """[n, V] stored features of some samples, or [n, C] their probabilities where the run keeps no features."""
        records = self._records[ids_n]
        features_nV = decode_features(records)
        return (features_nV if features_nV.shape[1] else records["probs"]).astype(np.float32)

    def findings(self, out_of_fold_NC: NDArray[np.float32] | None = None) -> Findings:
        """Everything of every sample.

        Args:
            out_of_fold_NC: Outputs of networks that did not see the sample, in the place of those of the bank; the
                neighbours say theirs, weighed as the run weighs them.
        """
        everyone = np.arange(self.dataset.info.num_train)
        probs_NC = self._records["probs"].astype(np.float32) if out_of_fold_NC is None else out_of_fold_NC
        aggregated_NC = np.concatenate(
            [self._opinions(*part, probs_NC).aggregated_nC for part in self._graph(everyone, self.num_neighbors)]
        )
        out_of_fold = out_of_fold_NC is not None
        weight = suspicion.model_weight(probs_NC, aggregated_NC, self.labels_N, out_of_fold=out_of_fold)
        pooled_NC = suspicion.pooled(probs_NC, aggregated_NC, weight)
        # posterior's uncertainty is made of what neighbours and outputs say already; a fold's was trained on the label.
        is_learnt = self._config.loss.recipe != "posterior" and not out_of_fold
        return Findings(
            labels_N=self.labels_N,
            uncertainty_N=self.uncertainty_N,
            probs_NC=probs_NC,
            aggregated_NC=aggregated_NC,
            suspicion_N=suspicion.combined(
                pooled_NC, self.labels_N, self.uncertainty_N, weight=weight if is_learnt else 0.0
            ),
            expected_C=self._expected_wrong(),
            proposed_N=pooled_NC.argmax(axis=1),
        )

    def _expected_wrong(self) -> NDArray[np.float64]:
        """[C] wrong labels that are expected by the labels around each label."""
        everyone, num_classes = np.arange(len(self.labels_N)), len(self.dataset.info.class_names)
        graph = (graph_mK for _, graph_mK in self._graph(everyone, self._most_neighbors))
        doubt_N = doubt_by_neighbors(graph, self.labels_N, self._is_reached(everyone), num_classes)
        return np.bincount(self.labels_N, doubt_N, num_classes).astype(np.float64)  # for its stubs they are whole

    @property
    def _most_neighbors(self) -> int:
        """Width of the graph, of which the run may use a part."""
        if self._graph_NK is not None:
            return self._graph_NK.shape[1]
        info = self.dataset.info
        own = [graph for _, graph in graph_infos(self.dataset.uri) if graph.content_hash == info.content_hash]
        return max((graph.num_neighbors for graph in own), default=self.num_neighbors)

    def _graph(self, ids_n: NDArray[np.int64], k: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """The samples and their K = ``k`` neighbours [m, K], a stretch of ids at a time."""
        stretch = max(1, PAIRS // k)
        for first in range(0, self.dataset.info.num_train, stretch):
            ids_m = ids_n[np.searchsorted(ids_n, first) : np.searchsorted(ids_n, first + stretch)]
            if len(ids_m):
                begin, rows = int(ids_m[0]), int(ids_m[-1] - ids_m[0]) + 1
                yield ids_m, self._rows(begin, rows, k)[ids_m - begin].astype(np.int64)

    def _rows(self, begin: int, rows: int, k: int) -> NDArray[np.int32]:
        """[rows, k] neighbours that the run used last: found anew in feature space, or those in the plane."""
        if self._graph_NK is not None:
            return self._graph_NK[begin : begin + rows, :k]
        return read_graph(self.dataset, begin, rows, k)[0]

    def _opinions(
        self, ids_n: NDArray[np.int64], graph_nK: NDArray[np.int64], probs_NC: NDArray[np.floating]
    ) -> Opinions:
        loss, va_N2 = self._config.loss, torch.from_numpy(self.va_N2)
        usable_nK = torch.from_numpy(self._is_reached(graph_nK))
        with torch.inference_mode():
            shares_nK = targets.contribution_shares(
                log_similarity(va_N2[ids_n], va_N2[graph_nK], width=loss.kernel_width, recipe=loss.recipe),
                self._calibration(ids_n, graph_nK),
                usable_nK,
                recipe=loss.recipe,
                floor=loss.calibration_floor,
            )
            aggregated_nC = targets.aggregate(shares_nK, torch.from_numpy(probs_NC[graph_nK].astype(np.float32)))
            if loss.recipe == "posterior":
                target_nC = self._posteriors(ids_n, graph_nK, shares_nK, probs_NC)
            else:
                labels_n, num_classes = torch.from_numpy(self.labels_N[ids_n]), len(self.dataset.info.class_names)
                target_nC = targets.target_distribution(
                    losses.smoothed_labels(labels_n, num_classes, loss.label_smoothing),
                    aggregated_nC,
                    self._logit_N[ids_n].sigmoid(),
                    usable_nK.any(dim=1),
                )
        return Opinions(
            neighbors_nK=graph_nK,
            shares_nK=shares_nK.numpy(),
            aggregated_nC=aggregated_nC.numpy(),
            target_nC=target_nC.numpy(),
        )

    def _posteriors(
        self,
        ids_n: NDArray[np.int64],
        graph_nK: NDArray[np.int64],
        shares_nK: Tensor,
        probs_NC: NDArray[np.floating],
    ) -> Tensor:
        """[n, C] label posteriors, which read of the neighbours their labels."""
        evidence = Evidence(
            labels_B=torch.from_numpy(self.labels_N[ids_n]),
            near_BC=shares_of_labels(torch.from_numpy(self.labels_N[graph_nK]), shares_nK, probs_NC.shape[1]),
            own_BC=torch.from_numpy(probs_NC[ids_n].astype(np.float32)),
            own_weight_B=self._config.posterior.own_weight * torch.from_numpy(self._is_reached(ids_n)),
        )
        return judge_labels(evidence, self._model.noise_joint).target_BC

    def _calibration(self, ids_n: NDArray[np.int64], graph_nK: NDArray[np.int64]) -> Tensor:
        """[n, K] logits of the calibration network on stored features; 0 where the run has no network or features."""
        if self._model.calibration is None or lacks_features(self._config):
            return torch.zeros(graph_nK.shape)
        own_nV, other_nKV = (
            torch.from_numpy(decode_features(self._records[rows]).astype(np.float32)) for rows in (ids_n, graph_nK)
        )
        return self._model.calibration(own_nV, other_nKV)

    def _is_reached(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        return self._records["versions"][rows] >= 0


def _read_bank(checkpoint: Checkpoint, info: DatasetInfo) -> tuple[BankRows, Mapping[str, NDArray[np.int32]]]:
    """Records of all training samples, and the neighbour graphs that were found anew, by name."""
    return newest(checkpoint.bank_files, info.num_train, bank_spec(checkpoint.config, info))
