"""What a model says about a split: each rank reads, decodes and predicts its share."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ldlva_dist.dataset.images import decode, resize
from ldlva_dist.dataset.manifest import DatasetInfo, read_columns
from ldlva_dist.dataset.shards import read_rows
from ldlva_dist.dataset.versions import shard_uri
from ldlva_dist.training.state import TrainState

BATCH_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class SplitReader:
    """Images of one split in id order, decoded and resized as for training, not augmented."""

    dataset_uri: str
    info: DatasetInfo
    split: str
    size: int
    channels: int

    @property
    def num_rows(self) -> int:
        """Rows of the split."""
        return self.info.splits[self.split].rows

    def batches(self, begin: int, end: int) -> Iterator[NDArray[np.uint8]]:
        """Rows [begin, end) of the split, at most 256 at a time, [n, H, W, channels]; the next is read meanwhile."""
        parts = [(first, min(end, first + BATCH_ROWS)) for first in range(begin, end, BATCH_ROWS)]
        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = [pool.submit(self._read, *part) for part in parts[:1]]
            for index in range(len(parts)):
                ahead += [pool.submit(self._read, *part) for part in parts[index + 1 : index + 2]]
                yield ahead.pop(0).result()

    def _read(self, begin: int, end: int) -> NDArray[np.uint8]:
        first = self.info.splits[self.split].first_id
        names = ["shard", "offset", "size", "checksum"]
        table = read_columns(self.dataset_uri, names, first_id=first + begin, rows=end - begin)
        columns = {name: table[name].to_numpy() for name in names}
        images = []
        for shard in np.unique(columns["shard"]):
            rows = columns["shard"] == shard
            uri = shard_uri(self.dataset_uri, self.info, self.info.shards[shard])
            for data in read_rows(uri, *(columns[name][rows] for name in names[1:])):
                images.append(resize(decode(data, self.channels), self.size))
        return np.stack(images)


def predict(
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
        Rows of the split [n], each on one rank only, and probabilities [n, C].
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


def split_labels(dataset_uri: str, info: DatasetInfo, split: str) -> NDArray[np.int64]:
    """[n] given labels of a split."""
    place = info.splits[split]
    table = read_columns(dataset_uri, ["label"], first_id=place.first_id, rows=place.rows)
    return table["label"].to_numpy().astype(np.int64)


def holdout_accuracy(state: TrainState) -> dict[str, float]:
    """Accuracy on the given labels of the holdout, over all ranks; nothing where there is no holdout. Collective."""
    config, info = state.config, state.info
    if info.splits["holdout"].rows == 0:
        return {}
    reader = SplitReader(
        dataset_uri=config.data.dataset,
        info=info,
        split="holdout",
        size=config.data.image_size,
        channels=config.data.channels,
    )
    state.engine.average_buffers()
    state.engine.train(False)
    rows, probs = predict(
        lambda images: state.engine(images).logits_BC,
        reader,
        device=state.engine.device,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
    )
    state.engine.train(True)
    labels = split_labels(config.data.dataset, info, "holdout")
    hits = torch.tensor((labels[rows] == probs.argmax(axis=1)).sum(), device=state.engine.device)
    dist.all_reduce(hits)
    return {"holdout_accuracy": hits.item() / len(labels)}
