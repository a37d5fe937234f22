"""The exact source: neighbours as the network sees them in this very step (METHOD.md, sections 3 and 6).

Their images are read ahead of the step, and forwarded before the batch's own. Every neighbour is forwarded, also one
that stands beside several rows: the statistics of BatchNorm count it as often, as in the reference.
B = rows of one micro-batch, b = rows of one rank, K = neighbours, H = W = side of the images, c = channels.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldlva_dist.dataset.images import augment
from ldlva_dist.errors import NeighborServiceError
from ldlva_dist.messages import NEVER, Neighbors
from ldlva_dist.method.step import StepSettings, TensorNeighbors, forward_neighbors
from ldlva_dist.stream.random_access import RandomAccess
from ldlva_dist.stream.superstep import ImageSettings


@dataclass(frozen=True, kw_only=True)
class PendingImages:
    """Images of one step that were asked for."""

    step: int
    future: Future[tuple[NDArray[np.uint8], NDArray[np.bool_]]]
    timeout_s: float

    def add_to(self, neighbors: Neighbors) -> Neighbors:
        """The neighbours with their images, none of them older than the step; unreadable ones were never written."""
        try:
            images_bKHWc, readable_bK = self.future.result(self.timeout_s)
        except TimeoutError as error:
            raise NeighborServiceError(
                f"the images of the neighbours of step {self.step} were not read in {self.timeout_s:g} s "
                "(neighbors.timeout_s)"
            ) from error
        return replace(neighbors, images=images_bKHWc, versions=np.where(readable_bK, self.step, NEVER))


class NeighborImages:
    """Reads and augments the neighbours' images of coming steps in the background, one step after the other.

    An image is flipped and cropped, not erased, by (seed, epoch, id): as the sample itself is in the same epoch.
    """

    def __init__(
        self,
        access: RandomAccess,
        *,
        epoch_of: Callable[[int], float],
        seed: int,
        images: ImageSettings,
        warmup_epochs: float,
        timeout_s: float,
    ) -> None:
        self._access, self._epoch_of = access, epoch_of
        self._warmup_epochs, self._timeout_s = warmup_epochs, timeout_s
        self._augmentation: dict[str, Any] = {"seed": seed, "flip": images.flip, "pad": images.pad}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="neighbor-batches")

    def ask(self, step: int, ids_bK: NDArray[np.int64]) -> PendingImages | None:
        """Start reading; does not wait. None during the warm-up, which has no use for neighbours."""
        epoch = self._epoch_of(step)
        if epoch < self._warmup_epochs:
            return None
        future = self._thread.submit(self._load, int(epoch), ids_bK)
        return PendingImages(step=step, future=future, timeout_s=self._timeout_s)

    def _load(self, epoch: int, ids_bK: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """[b, K, H, W, c] images, and which of them [b, K] could be read."""
        distinct, place = np.unique(ids_bK, return_inverse=True)
        place_bK = place.reshape(ids_bK.shape)
        images, readable = self._access.images(distinct)
        augmented = augment(
            images, epochs_b=np.full(len(distinct), epoch), ids_b=distinct, erase_probability=0.0, **self._augmentation
        )
        return augmented[place_bK], readable[place_bK]


def forward_exact(
    model: Any, neighbors: TensorNeighbors, settings: StepSettings, feature_width: int
) -> TensorNeighbors:
    """The same neighbours with fresh outputs, by one forward of their images; zeros where there are no images.

    ``model`` is an ``LDLVA`` in training mode, or an engine around one. Its BatchNorm takes the images like any batch
    in the recipe ``official``, and is in evaluation mode in ``paper``.
    """
    shape, device = neighbors.usable_BK.shape, neighbors.usable_BK.device
    probs_nC = torch.zeros(shape.numel(), settings.num_classes, device=device)
    features_nV = torch.zeros(shape.numel(), feature_width, device=device)
    if neighbors.images is not None:
        assert neighbors.readable is not None, "who reads images knows which of them"
        # The host knows the rows, so that it need not wait for the device to count them.
        rows_m = torch.from_numpy(np.flatnonzero(neighbors.readable)).to(device, non_blocking=True)
        images = neighbors.images.flatten(0, 1)
        model.train(settings.recipe == "official")
        read = images if len(rows_m) == len(images) else images.index_select(0, rows_m)
        probs_mC, features_mV = forward_neighbors(model, read)
        model.train(True)
        probs_nC.index_copy_(0, rows_m, probs_mC.float())
        features_nV.index_copy_(0, rows_m, features_mV.float())
    return replace(
        neighbors,
        probs_BKC=probs_nC.view(*shape, settings.num_classes),
        features_BKV=features_nV.view(*shape, feature_width),
    )
