"""Valence-arousal of every image by a user's regressor, piece by piece; a piece is 4,096 ids.

The points of a finished piece lie beside the version that is being made; an interrupted job resumes where it stopped.
n = rows of a piece or batch, s = side of the images, c = channels.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.preparation import Preparation
from ldlva_dist.dataset.stored_images import StoredImages
from ldlva_dist.dataset.versions import versions_uri
from ldlva_dist.errors import DataError
from ldlva_dist.packing.annotate.regressor import Regressor, model_fingerprint
from ldlva_dist.packing.annotate.settings import RegressorSettings
from ldlva_dist.runtime import unfinished

PIECE_ROWS = 4096
READ_ROWS = 256
JOIN_THREADS = 16
_PART = re.compile(r"piece-(\d+)\.npy")


@dataclass(frozen=True, kw_only=True)
class AnnotationWork:
    """What every worker needs to know; plain values."""

    dataset: Dataset
    parts_uri: str
    model_name: str
    settings: RegressorSettings
    batch_size: int
    clip: bool
    piece_rows: int = PIECE_ROWS

    @staticmethod
    def parts_of(dataset: Dataset, name: str) -> str:
        """The folder of an unfinished version's pieces."""
        return storage.join(versions_uri(dataset), f".{name}.parts")


@dataclass(frozen=True, kw_only=True)
class Done:
    """What is said of a piece: everything that reaches the driver."""

    rows: int
    num_bad: int = 0
    """Points outside [-1, 1] or NaN; if there are any, nothing was stored."""
    first_bad: str = ""


def open_pieces(work: AnnotationWork, model: bytes) -> NDArray[np.int64]:
    """The pieces that are still to be done.

    Pieces that another model, other settings or another data set gave are refused, see :func:`unfinished.begin_pieces`.
    """
    facts = {
        "images": work.dataset.info.content_hash,
        "model": model_fingerprint(model),
        "settings": asdict(work.settings),
    }
    facts |= {"piece_rows": work.piece_rows}  # not clip: points are stored as the model gave them
    unfinished.begin_pieces(work.parts_uri, facts, "--name")
    done = [int(found[1]) for name in storage.list_folder(work.parts_uri) if (found := _PART.fullmatch(name))]
    return np.setdiff1d(np.arange(-(-work.dataset.num_rows // work.piece_rows)), np.asarray(done, dtype=np.int64))


def annotate_piece(work: AnnotationWork, piece: int, regressor: Regressor) -> Done:
    """Read, predict and store the points of one piece."""
    first = piece * work.piece_rows
    rows = min(work.piece_rows, work.dataset.num_rows - first)
    stored = work.dataset.images(range(first, first + rows))
    step = max(READ_ROWS // work.batch_size, 1) * work.batch_size
    windows = [stored.part(begin, begin + step) for begin in range(0, rows, step)]
    points = [_predict(regressor, images, work.batch_size) for images in _read_ahead(work, windows)]
    va_n2 = np.concatenate(points)
    bad_n = _is_bad(_as_asked(va_n2, work))
    if bad_n.any():
        return Done(rows=rows, num_bad=int(bad_n.sum()), first_bad=str(stored.rows["key"][int(bad_n.argmax())]))
    buffer = io.BytesIO()
    np.save(buffer, va_n2, allow_pickle=False)
    storage.write_bytes(_part_uri(work.parts_uri, piece), buffer.getvalue())
    return Done(rows=rows)


def stored_points(work: AnnotationWork) -> Callable[[pa.Table], Mapping[str, pa.Array]]:
    """For ``versions.Change``: valence and arousal of a row group, from the pieces of a job that is done."""

    def columns(block: pa.Table) -> Mapping[str, pa.Array]:
        first, end = block["id"][0].as_py(), block["id"][-1].as_py() + 1
        pieces = range(first // work.piece_rows, -(-end // work.piece_rows))
        with ThreadPoolExecutor(max_workers=JOIN_THREADS) as pool:
            va_n2 = np.concatenate(list(pool.map(lambda piece: _stored(work.parts_uri, piece), pieces)))
        va_n2 = _as_asked(va_n2[first - pieces.start * work.piece_rows :][: len(block)], work)
        if _is_bad(va_n2).any():
            raise DataError(f"{work.parts_uri} holds points outside [-1, 1], of a job that was to --clip them")
        return {name: pa.array(va_n2[:, i]) for i, name in enumerate(("valence", "arousal"))}

    return columns


def _as_asked(va_n2: NDArray[np.float32], work: AnnotationWork) -> NDArray[np.float32]:
    return np.clip(va_n2, -1, 1) if work.clip else va_n2


def _is_bad(va_n2: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[n] points that are outside [-1, 1], or no numbers."""
    return np.logical_not((np.abs(va_n2) <= 1).all(axis=1))


def _read_ahead(work: AnnotationWork, windows: list[StoredImages]) -> Iterator[NDArray[np.uint8]]:
    """The images of each window; the next one is read and decoded while the model computes."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting = reader.submit(_read, work, windows[0])
        for window in windows[1:]:
            ready, waiting = waiting, reader.submit(_read, work, window)
            yield ready.result()
        yield waiting.result()


def _read(work: AnnotationWork, stored: StoredImages) -> NDArray[np.uint8]:
    """[n, s, s, c] the images of consecutive rows, one ranged read a shard."""
    return np.stack(list(_prepared(work, stored)))


def _prepared(work: AnnotationWork, stored: StoredImages) -> Iterator[NDArray[np.uint8]]:
    settings = work.settings
    preparation = Preparation(size=settings.input_size, channels=settings.channels, resize=settings.resize)
    for row, data in enumerate(stored.read_all()):
        try:
            yield preparation.read(data)
        except DataError as error:
            key, shard = stored.rows["key"][row], stored.rows["shard"][row].as_py()
            raise DataError(f"{key} in {stored.shard_uri(shard)}: {error}") from error


def _predict(regressor: Regressor, images_nssc: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """[n, 2]; every batch has the full size, because some exported models take no other."""
    points = []
    for begin in range(0, len(images_nssc), batch_size):
        batch = images_nssc[begin : begin + batch_size]
        filled = np.concatenate([batch, np.zeros((batch_size - len(batch), *batch.shape[1:]), dtype=np.uint8)])
        points.append(regressor(filled)[: len(batch)])
    return np.concatenate(points)


def _part_uri(parts_uri: str, piece: int) -> str:
    return storage.join(parts_uri, f"piece-{piece:08d}.npy")


def _stored(parts_uri: str, piece: int) -> NDArray[np.float32]:
    uri = _part_uri(parts_uri, piece)
    try:
        return np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{uri} is damaged: {error}; without it the same command makes it again") from error
