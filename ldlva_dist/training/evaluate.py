"""What a model says about a split: each rank reads, decodes and predicts its share."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.preparation import Preparation
from ldlva_dist.dataset.stored_images import StoredImages
from ldlva_dist.training.inputs import preparation
from ldlva_dist.training.state import TrainState

BATCH_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class SplitReader:
    """Images of one split in id order, or of a part of it, decoded and resized as for training, not augmented."""

    dataset: Dataset
    split: str
    preparation: Preparation
    rows: range | None = None
    """Rows of the split that are read; None: all."""

    @property
    def num_rows(self) -> int:
        """Rows that are read."""
        return len(self._rows)

    @property
    def _rows(self) -> range:
        return range(self.dataset.info.splits[self.split].rows) if self.rows is None else self.rows

    def batches(self, begin: int, end: int) -> Iterator[NDArray[np.uint8]]:
        """Rows [begin, end) of those, at most 256 at a time, [n, H, W, channels]; the next is read meanwhile."""
        first, mine = self.dataset.info.splits[self.split].first_id, self._rows[begin:end]
        ids = range(first + mine.start, first + mine.stop, mine.step)
        stored = self.dataset.images(ids if ids.step == 1 else np.array(ids))
        parts = [stored.part(row, row + BATCH_ROWS) for row in range(0, end - begin, BATCH_ROWS)]
        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = [pool.submit(self._read, part) for part in parts[:1]]
            for index in range(len(parts)):
                ahead += [pool.submit(self._read, part) for part in parts[index + 1 : index + 2]]
                yield ahead.pop(0).result()

    def _read(self, stored: StoredImages) -> NDArray[np.uint8]:
        return np.stack([self.preparation.read(data) for data in stored.read_all()])


def predict_share(
    forward: Callable[[Tensor], Tensor],
    reader: SplitReader,
    *,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Class probabilities of this rank's share of a split.

    Every rank makes the same number of calls of ``forward`` (uint8 images [n, H, W, channels] to logits [n, C]), so
    that a sharded model can gather its weights: the shares are equal, the last ones wrap round to the first rows.

    Returns:
        Places among the reader's rows [n], each on one rank only, and probabilities [n, C].
    """
    share = -(-reader.num_rows // world_size)
    begin = min(rank * share, reader.num_rows - share)
    probs = []
    with torch.inference_mode():
        for images in reader.batches(begin, begin + share):
            logits = forward(torch.from_numpy(images).to(device, non_blocking=True))
            probs.append(logits.float().softmax(dim=1).cpu().numpy())
    rows = np.arange(begin, begin + share)
    mine = rows >= rank * share
    return rows[mine], np.concatenate(probs)[mine]


def holdout_accuracy(state: TrainState) -> dict[str, float]:
    """Accuracy on the given labels of the holdout, over all ranks; nothing where there is no holdout. Collective."""
    dataset = Dataset(state.config.data.dataset, state.info)
    if dataset.info.splits["holdout"].rows == 0:
        return {}
    reader = SplitReader(dataset=dataset, split="holdout", preparation=preparation(state.config))
    state.engine.average_buffers()
    state.engine.train(False)
    rows, probs = predict_share(
        lambda images: state.engine(images).logits_BC,
        reader,
        device=state.engine.device,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
    )
    state.engine.train(True)
    labels = dataset.labels("holdout")
    hits = torch.tensor((labels[rows] == probs.argmax(axis=1)).sum(), device=state.engine.device)
    dist.all_reduce(hits)
    return {"holdout_accuracy": hits.item() / len(labels)}
