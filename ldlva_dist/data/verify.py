"""Reading a whole data set again: what in its shards and its manifest is not as it says. Nothing is unpacked to disk.

Members that are neither images nor JSON are named and never opened. Findings are sentences, at most ``MAX_FINDINGS`` of
a shard and the number of the others. n = rows of a shard.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ldlva_dist.data import storage
from ldlva_dist.data.contents import HASHED, ContentHash, Tally, read_blocks
from ldlva_dist.data.manifest import SPLITS, DatasetInfo, float_column, read_columns
from ldlva_dist.data.packing.survey import key_hash
from ldlva_dist.data.shards import IMAGE_EXTENSIONS, crc32, public_facts
from ldlva_dist.data.versions import shard_uri
from ldlva_dist.errors import DataError

MAX_FINDINGS = 20
_ROWS = ("key", "shard", "offset", "size", "checksum", "label", "valence", "arousal")


@dataclass(frozen=True)
class Member:
    """A plain file in a tar: where its bytes are."""

    offset: int
    size: int


def check_shard(dataset_uri: str, info: DatasetInfo, number: int) -> list[str]:
    """What is wrong with one shard; reads all of it, 128 MB at most of a shard of ours."""
    shard = info.shards[number]
    try:
        data = storage.read_bytes(shard_uri(dataset_uri, info, shard))
        rows = read_columns(dataset_uri, _ROWS, first_id=shard.first_id, rows=shard.rows).to_pylist()
    except DataError as error:
        return [str(error)]
    findings = []
    if len(data) != shard.bytes:
        findings.append(f"has {len(data)} bytes, dataset.json says {shard.bytes}")
    images: dict[str, Member] = {}
    texts: dict[str, Member] = {}
    findings += _read_members(data, images, texts)
    for row in rows:
        image, text = images.pop(row["key"], None), texts.pop(row["key"], None)
        if row["shard"] != number:
            findings.append(f"the manifest has {row['key']!r} in shard {row['shard']}, dataset.json in {number}")
        findings += _check_image(data, image, row)
        findings += _check_text(data, text, row, info)
    findings += [f"{key!r} is not in the manifest" for key in (images | texts)]
    return [f"{shard.name}: {finding}" for finding in shorten(findings)]


def shorten(findings: list[str]) -> list[str]:
    """The first findings and how many more there are."""
    more = len(findings) - MAX_FINDINGS
    return findings if more <= 0 else [*findings[:MAX_FINDINGS], f"and {more} more"]


def _read_members(data: bytes, images: dict[str, Member], texts: dict[str, Member]) -> Iterator[str]:
    """Sort the members into images and texts by key; yields what is wrong with the tar itself."""
    try:
        tar = tarfile.TarFile(fileobj=io.BytesIO(data))
        while (member := tar.next()) is not None:
            yield from _sort(member, images, texts)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        yield f"is cut off or no tar: {error}"
        return
    if data[tar.offset :].strip(b"\0"):
        yield f"has a corrupt header at byte {tar.offset}: what comes after it cannot be read"
    elif len(data) - tar.offset < 2 * tarfile.BLOCKSIZE:
        yield "is cut off: it ends without its closing blocks"


def _sort(member: tarfile.TarInfo, images: dict[str, Member], texts: dict[str, Member]) -> Iterator[str]:
    key, _, extension = member.name.partition(".")
    if not member.isreg():
        yield f"member {member.name!r} is no plain file"
    elif "/" in member.name or "\\" in member.name or not key:
        yield f"member {member.name!r} has a path or no key; it was not opened"
    elif extension != "json" and extension not in IMAGE_EXTENSIONS:
        yield f"member {member.name!r} is neither an image nor JSON; it was not opened"
    else:
        place = texts if extension == "json" else images
        if key in place:
            yield f"member {member.name!r} stands twice"
        place.setdefault(key, Member(member.offset_data, member.size))


def _check_image(data: bytes, image: Member | None, row: Mapping[str, Any]) -> Iterator[str]:
    key = row["key"]
    if image is None:
        yield f"the image of {key!r} is missing"
    elif (image.offset, image.size) != (row["offset"], row["size"]):
        yield (
            f"the image of {key!r} has {image.size} bytes at byte {image.offset}, "
            f"the manifest says {row['size']} at {row['offset']}"
        )
    elif crc32(memoryview(data)[image.offset : image.offset + image.size]) != row["checksum"]:
        yield f"the image of {key!r} does not have the checksum of the manifest"


def _check_text(data: bytes, text: Member | None, row: Mapping[str, Any], info: DatasetInfo) -> Iterator[str]:
    """A version may have other labels and valence-arousal than the shards it shares."""
    key = row["key"]
    if text is None:
        yield f"the JSON of {key!r} is missing"
        return
    try:
        found = json.loads(data[text.offset : text.offset + text.size])
    except ValueError:
        yield f"the JSON of {key!r} is no JSON"
        return
    expected = public_facts(row, info.class_names)
    names = expected if info.base is None else ("key",)
    if not isinstance(found, dict):
        yield f"the JSON of {key!r} is no object"
        return
    for name in names:
        if found.get(name) != expected[name]:
            yield f"the JSON of {key!r} says {name} {found.get(name)!r}, the manifest {expected[name]!r}"


def check_manifest(dataset_uri: str, info: DatasetInfo) -> list[str]:
    """What is wrong with the manifest, or between it and ``dataset.json``; 8 bytes a row are held."""
    try:
        return shorten(list(_check_manifest(dataset_uri, info)))
    except DataError as error:
        return [str(error)]


def _check_manifest(dataset_uri: str, info: DatasetInfo) -> Iterator[str]:
    yield from _check_ranges(info)
    digest, tally, rows = ContentHash(info.class_names, info.va_transform), Tally(info.class_names), 0
    hashes: list[NDArray[np.uint64]] = []
    ends = np.cumsum([info.splits[name].rows for name in SPLITS])
    for block in read_blocks(dataset_uri, ["id", "shard", *HASHED]):
        ids_n = np.arange(rows, rows + len(block))
        if not np.array_equal(block["id"].to_numpy(), ids_n):
            yield f"the manifest's ids {rows}..{rows + len(block) - 1} are not there in order"
        names, known = block["split"].cast(pa.string()), pc.SetLookupOptions(pa.array(SPLITS))
        split_n = pc.call_function("index_in", [names], known).fill_null(-1).to_numpy()
        wrong_n = split_n != np.searchsorted(ends, ids_n, side="right")
        if wrong_n.any():
            yield f"sample {rows + int(wrong_n.argmax())} is in another split than dataset.json says"
        yield from _check_va(block, info, rows)
        hashes.append(np.array([key_hash(key) for key in block["key"].to_pylist()], dtype=np.uint64))
        digest.update(block)
        tally.add(block)
        rows += len(block)
    if rows != ends[-1]:
        yield f"the manifest has {rows} rows, dataset.json says {ends[-1]}"
    twice = rows - len(np.unique(np.concatenate(hashes))) if hashes else 0
    if twice:
        yield f"{twice} keys stand more than once in the manifest"
    if tally.class_counts() != dict(info.class_counts):
        yield f"the manifest's class counts are {tally.class_counts()}, dataset.json says {dict(info.class_counts)}"
    if digest.hexdigest() != info.content_hash:
        yield "the manifest does not have the content hash of dataset.json: one of them was changed"


def _check_ranges(info: DatasetInfo) -> Iterator[str]:
    """Splits follow each other, and so do the shards in each."""
    at = 0
    for name in SPLITS:
        split, first = info.splits[name], at
        if split.first_id != at:
            yield f"dataset.json: {name} begins at id {split.first_id}, not at {at}"
        for shard in info.shards_of(name):
            if shard.first_id != at:
                yield f"dataset.json: {shard.name} begins at id {shard.first_id}, not at {at}"
            at = shard.first_id + shard.rows
        if at != first + split.rows:
            yield f"dataset.json: the shards of {name} hold {at - first} rows, the split {split.rows}"
        at = first + split.rows


def _check_va(block: pa.Table, info: DatasetInfo, first: int) -> Iterator[str]:
    va_n2 = np.stack([float_column(block, name) for name in ("valence", "arousal")], axis=1)
    missing_n = np.isnan(va_n2).any(axis=1)
    wrong_n = np.abs(np.nan_to_num(va_n2)).max(axis=1) > 1
    if info.has_valence_arousal and info.base is None:
        wrong_n |= missing_n
    elif not info.has_valence_arousal:
        wrong_n |= ~missing_n
    if wrong_n.any():
        row = int(wrong_n.argmax())
        yield f"the valence-arousal of sample {first + row} is {va_n2[row].tolist()}"
