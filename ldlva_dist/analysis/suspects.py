"""The samples whose label a run would change, and their way to other tools. n = suspects, N = training samples."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.analysis.label_findings import Findings
from ldlva_dist.analysis.trained_run import TrainedRun
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.image_files import open_image
from ldlva_dist.dataset.shards import image_extension
from ldlva_dist.errors import DataError
from ldlva_dist.exchange.clean_lab import write_arrays
from ldlva_dist.exchange.common_form import LabelIssue, Listed, as_table
from ldlva_dist.exchange.formats import FORMATS, FormatName

IMAGES_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class WrittenSuspects:
    """What lies in the folder now."""

    files: list[str]
    num_listed: int
    damaged: dict[str, str]
    """Why the images of some samples, by key, cannot be read; these are not listed."""


@dataclass(frozen=True)
class _Picture:
    name: str
    size: tuple[int, int]


def suspect_ids(findings: Findings, first: int | None = None) -> NDArray[np.int64]:
    """[n] ids of the samples whose proposed class is not their label, the most suspicious first.

    Args:
        findings: Of a run.
        first: Most samples; None takes all.
    """
    order_N = np.argsort(findings.rank_N)
    return order_N[(findings.proposed_N != findings.labels_N)[order_N]][:first]


def as_issues_table(dataset: Dataset, findings: Findings, ids_n: NDArray[np.int64]) -> pa.Table:
    """Samples in the common form of ``exchange``, in the order of their ids as given."""
    names, back_n = dataset.info.class_names, np.argsort(np.argsort(ids_n))
    keys = dataset.take(["key"], np.sort(ids_n))["key"].to_pylist() if len(ids_n) else []
    return as_table(
        LabelIssue(keys[back], names[given], names[proposed], score)
        for back, given, proposed, score in zip(
            back_n.tolist(),
            findings.labels_N[ids_n].tolist(),
            findings.proposed_N[ids_n].tolist(),
            findings.suspicion_N[ids_n].tolist(),
            strict=True,
        )
    )


def write_suspects(
    trained: TrainedRun, name: FormatName, output: str, *, first: int | None = None, image_address: str | None = None
) -> WrittenSuspects:
    """Write the suspects of a run for another tool, with their images where it needs files.

    Args:
        trained: The run.
        name: Format.
        output: Folder or s3:// prefix.
        first: Most suspects; None takes all.
        image_address: Where a browser finds the folder of the images; None takes what the tool takes.
    """
    findings, dataset, folder = trained.findings(), trained.dataset, FORMATS[name].images
    ids_n, damaged = suspect_ids(findings, first), {}
    table = as_issues_table(dataset, findings, ids_n)
    pictures: list[_Picture | None] = [_Picture("", (0, 0))] * len(ids_n)
    if folder is not None:
        found = dict(_write_images(dataset, np.sort(ids_n), storage.join(output, folder), damaged))
        pictures = [found.get(sample) for sample in ids_n.tolist()]
    is_whole_n = np.array([picture is not None for picture in pictures], dtype=bool)
    listed = Listed(
        rows=table.filter(pa.array(is_whole_n)),
        class_names=dataset.info.class_names,
        image_names=[picture.name for picture in pictures if picture],
        image_sizes=[picture.size for picture in pictures if picture],
        image_address=image_address or _address(name, output, folder or ""),
        embedding_nV=trained.embeddings(ids_n[is_whole_n]),
    )
    files = FORMATS[name].write(output, listed)
    if name == "cleanlab":
        known_N = np.flatnonzero(findings.probs_NC.any(axis=1))
        keys = dataset.take(["key"], known_N)["key"]
        files += write_arrays(output, findings.probs_NC[known_N], findings.labels_N[known_N], keys)
    return WrittenSuspects(files=files, num_listed=len(listed.rows), damaged=damaged)


def _address(name: FormatName, output: str, folder: str) -> str:
    """Label Studio serves local files below its document root, taken to be the folder that holds ``output``."""
    if name == "label-studio" and not storage.is_remote(output):
        return f"/data/local-files/?d={quote(storage.absolute(output).rpartition('/')[2])}/{folder}"
    return storage.absolute(storage.join(output, folder))


def _write_images(
    dataset: Dataset, ids_n: NDArray[np.int64], folder: str, damaged: dict[str, str]
) -> Iterator[tuple[int, _Picture]]:
    """Write the images of samples in ascending order; those that cannot be read are put among the damaged."""
    if not len(ids_n):
        return
    images = dataset.images(ids_n)
    for begin in range(0, len(ids_n), IMAGES_AT_ONCE):
        part = images.part(begin, begin + IMAGES_AT_ONCE)
        keys = part.rows["key"].to_pylist()
        for sample, key, data in zip(part.rows["id"].to_pylist(), keys, part.read_each(), strict=True):
            try:
                if isinstance(data, DataError):
                    raise data
                with open_image(data) as picture:
                    size = picture.size
            except DataError as error:
                damaged[key] = str(error)
                continue
            name = f"{key}.{image_extension(data)}"
            storage.write_bytes(storage.join(folder, name), bytes(data))
            yield sample, _Picture(name, size)
