"""Where a data set is written before it is complete, and the writing of its shards. N = accepted rows."""

import errno
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist.data import storage
from ldlva_dist.data.manifest import SPLITS
from ldlva_dist.data.rows import Source
from ldlva_dist.data.shards import Placed, ShardWriter, plan_shards
from ldlva_dist.data.survey import load_image
from ldlva_dist.errors import ClusterError

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Stage:
    """The local folder that is packed in, and where finished files go."""

    folder: Path
    output: str
    sent: list[str]

    def finish(self, path: Path) -> None:
        """Hand over a complete file: sent to the store and removed here, or left for the rename."""
        if storage.is_remote(self.output):
            self.sent.append(storage.join(self.output, path.name))
            storage.upload(str(path), self.sent[-1])
            path.unlink()


@contextmanager
def staged(output: str) -> Iterator[Stage]:
    """A stage whose files become the folder ``output`` when all goes well, and vanish otherwise.

    Raises:
        ClusterError: where the disk has no room for them.
    """
    remote = storage.is_remote(output)
    target = None if remote else Path(storage.resolve(output)[1])
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".packing-", dir=target and target.parent))
    stage = Stage(folder, output, [])
    try:
        yield stage
        if target is not None:
            folder.chmod(0o755)
            folder.rename(target)
    except BaseException as error:
        for uri in stage.sent:
            storage.delete_file(uri)
        if isinstance(error, OSError) and error.errno in DISK_IS_FULL:
            raise ClusterError(f"the disk of {folder.parent} is full; nothing was written to {output}") from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_shards(
    source: Source, table: pa.Table, stage: Stage, *, class_names: Sequence[str], size: int | None
) -> list[Placed]:
    """Write every row of ``table`` (in id order) to the shards of its split, in the order the source gives them.

    Returns:
        Where everything went, per split of SPLITS.
    """
    sizes_N, split_N = table["size"].to_numpy(), table["split"].to_numpy()
    next_id = [int(np.searchsorted(split_N, i)) for i in range(len(SPLITS) + 1)]
    columns = ["key", "label", "valence", "arousal"]
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor())
        writers = [
            stack.enter_context(
                ShardWriter(stage.folder, name, next_id[i], plan_shards(sizes_N[next_id[i] : next_id[i + 1]]))
            )
            for i, name in enumerate(SPLITS)
        ]
        place = _places(table)
        for rows in source.blocks():
            ids_n = _lookup(place[rows.part], rows.numbers)
            images = [image for image, sample in zip(rows.images, ids_n.tolist(), strict=True) if sample >= 0]
            ids_n = ids_n[ids_n >= 0]
            about = table.select(columns).take(ids_n).to_pylist()
            loaded = pool.map(lambda image: load_image(image, size), images)
            for split, facts, image in zip(split_N[ids_n].tolist(), about, loaded, strict=True):
                path = writers[split].write(image, _json_facts(facts, class_names))
                if path is not None:
                    stage.finish(path)
        return [writer.placed() for writer in writers]


def _places(table: pa.Table) -> dict[str, NDArray[np.int64]]:
    """For each part, the id of each row of the user's table; -1 for a row that was not accepted."""
    places = {}
    part_N, number_N = table["part"].to_numpy(), table["number"].to_numpy()
    for part in ("train", "test"):
        ids = np.flatnonzero(part_N == part)
        places[part] = np.full(number_N[ids].max(initial=0) + 1, -1, dtype=np.int64)
        places[part][number_N[ids]] = ids
    return places


def _lookup(place: NDArray[np.int64], numbers_n: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n] ids of rows of the user's table; -1 for a row that was not accepted."""
    return np.where(numbers_n < len(place), place[np.minimum(numbers_n, len(place) - 1)], -1)


def _json_facts(facts: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """What a shard says of a row: never votes or truth, so that no reader of shards can train on them."""
    va = {name: None if facts[name] is None else round(facts[name], 6) for name in ("valence", "arousal")}
    return {"key": facts["key"], "label": facts["label"], "class": class_names[facts["label"]], **va}
