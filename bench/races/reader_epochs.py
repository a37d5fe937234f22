"""Epochs of one other reader over JPEG files, for bench/races/readers.py.

Runs in an environment that has this reader, numpy, simplejpeg and Pillow, and nothing of this project. Everything stays
in one process, which costs no CPU for messages; threads are said below. Prints one JSON line.
"""

import argparse
import json
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

PIXELS, BATCH, SHUFFLED, THREADS = 112, 64, 1000, 2
Row = tuple[str, Any]
"""Name of a file, and its pixels [PIXELS, PIXELS, 3]."""
Batch = tuple[Sequence[str], Any]
"""Names, and pixels [b, PIXELS, PIXELS, 3]."""
Epochs = Callable[[int], Iterator[Batch]]
"""Gives the batches of an epoch."""


def main() -> None:
    """Make what the reader reads, or read it: an epoch that does not count, and then those that do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=sorted(READERS))
    parser.add_argument("folder", type=Path, help="holds originals/, set/ with shards, and what --prepare writes")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--prepare", action="store_true")
    arguments = parser.parse_args()
    if arguments.prepare:
        PREPARE.get(arguments.reader, lambda folder: None)(arguments.folder)
        return
    batches = READERS[arguments.reader](arguments.folder)
    sums = {name: int(image.sum()) for names, images in batches(0) for name, image in zip(names, images, strict=True)}
    seen: Counter[str] = Counter()
    cpu_s, began = _cpu_s(), time.monotonic()
    for epoch in range(1, 1 + arguments.epochs):
        for names, images in batches(epoch):
            assert images.shape == (len(names), PIXELS, PIXELS, 3)
            seen.update(names)
    cpu_s, wall_s = _cpu_s() - cpu_s, time.monotonic() - began
    exactly_once = seen.keys() == sums.keys() and set(seen.values()) == {arguments.epochs}
    figures = {"rows": seen.total(), "cpu_s": cpu_s, "wall_s": wall_s, "exactly_once": exactly_once, "sums": sums}
    print(json.dumps(figures))


def decode(data: Any) -> Any:
    """[PIXELS, PIXELS, 3] at the smallest scale that covers the side; Pillow shrinks what is left over."""
    pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", min_height=PIXELS, min_width=PIXELS, min_factor=1)
    if pixels.shape == (PIXELS, PIXELS, 3):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((PIXELS, PIXELS), Image.Resampling.BILINEAR))


def read(path: Path) -> Row:
    """A file."""
    return path.stem, decode(path.read_bytes())


def joined(rows: Sequence[Row]) -> Batch:
    """A batch of rows."""
    return [name for name, _ in rows], np.stack([image for _, image in rows])


def originals(folder: Path) -> list[Path]:
    """All files."""
    return sorted((folder / "originals").glob("*/*.jpg"))


def grain_epochs(folder: Path, threads: int = 0) -> Epochs:
    """Grain over the files themselves, shuffled."""
    import grain  # pyright: ignore[reportMissingImports]

    paths = originals(folder)

    def batches(epoch: int) -> Iterator[Batch]:
        rows = grain.MapDataset.source(paths).shuffle(seed=epoch).map(read)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * BATCH if threads else 0)
        yield from rows.to_iter_dataset(options).batch(BATCH, batch_fn=joined)

    return batches


def spdl_epochs(folder: Path, threads: int = 1) -> Epochs:
    """SPDL's pipeline over the files themselves, shuffled."""
    from spdl.pipeline import PipelineBuilder  # pyright: ignore[reportMissingImports]

    paths = originals(folder)

    def batches(epoch: int) -> Iterator[Batch]:
        order = [paths[place] for place in np.random.default_rng(epoch).permutation(len(paths))]
        builder = PipelineBuilder().add_source(order).pipe(read, concurrency=threads).aggregate(BATCH).pipe(joined)
        pipeline = builder.add_sink(3).build(num_threads=threads)
        with pipeline.auto_stop():
            yield from pipeline

    return batches


def webdataset_epochs(folder: Path) -> Epochs:
    """Webdataset over the shards that our stream reads."""
    from webdataset.compat import WebDataset

    shards = sorted(map(str, (folder / "set").glob("train-*.tar")))

    def of_sample(sample: dict[str, Any]) -> Row:
        return sample["__key__"].rpartition("_")[2], decode(sample["jpg"])

    def batches(epoch: int) -> Iterator[Batch]:
        rows: Any = WebDataset(shards, shardshuffle=len(shards), seed=epoch, empty_check=False).shuffle(SHUFFLED)
        yield from rows.map(of_sample).batched(BATCH, collation_fn=joined)

    return batches


def litdata_epochs(folder: Path) -> Epochs:
    """LitData over its own chunks of the files' bytes, shuffled."""
    from litdata import StreamingDataset  # pyright: ignore[reportMissingImports]

    dataset = StreamingDataset(str(folder / "litdata"), shuffle=True, drop_last=False)

    def batches(epoch: int) -> Iterator[Batch]:
        dataset.set_epoch(epoch)
        rows: list[Row] = []
        for item in dataset:
            rows.append((item["name"], decode(item["jpg"])))
            if len(rows) == BATCH:
                yield joined(rows)
                rows = []
        if rows:
            yield joined(rows)

    return batches


def write_litdata(folder: Path) -> None:
    """Write LitData's chunks."""
    from litdata import optimize  # pyright: ignore[reportMissingImports]

    optimize(as_item, originals(folder), output_dir=str(folder / "litdata"), chunk_bytes="64MB", num_workers=1)


def as_item(path: Path) -> dict[str, Any]:
    """A file as LitData keeps it."""
    return {"name": path.stem, "jpg": path.read_bytes()}


def _cpu_s() -> float:
    """CPU seconds of this process, all its threads, and those of its children that have ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


READERS: dict[str, Callable[[Path], Epochs]] = {
    "litdata": litdata_epochs,
    "spdl": spdl_epochs,
    "spdl, 2 threads": lambda folder: spdl_epochs(folder, THREADS),
    "webdataset": webdataset_epochs,
    "grain": grain_epochs,
    "grain, 2 threads": lambda folder: grain_epochs(folder, THREADS),
}
PREPARE = {"litdata": write_litdata}


if __name__ == "__main__":
    main()
