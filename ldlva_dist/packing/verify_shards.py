"""Reading the shards of a data set again: what in them is not as the manifest says. Nothing is unpacked to disk.

Members that are neither images nor JSON are named and never opened. Findings are sentences, at most ``MAX_FINDINGS`` of
a shard and the number of the others. n = rows of a shard.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.dataset.shards import IMAGE_EXTENSIONS, crc32, public_facts
from ldlva_dist.errors import DataError

MAX_FINDINGS = 20
_ROWS = ("key", "shard", "offset", "size", "checksum", "label", "valence", "arousal")


@dataclass(frozen=True)
class ShardMember:
    """A plain file in a tar: where its bytes are."""

    offset: int
    size: int


def check_shard(dataset: Dataset, number: int) -> list[str]:
    """What is wrong with one shard; reads all of it, 128 MB at most of a shard of ours."""
    shard = dataset.info.shards[number]
    try:
        data = storage.read_bytes(dataset.shard_uri(number))
        rows = dataset.columns(_ROWS, first_id=shard.first_id, rows=shard.rows).to_pylist()
    except DataError as error:
        return [str(error)]
    findings = []
    if len(data) != shard.bytes:
        findings.append(f"has {len(data)} bytes, dataset.json says {shard.bytes}")
    images: dict[str, ShardMember] = {}
    texts: dict[str, ShardMember] = {}
    findings += _read_members(data, images, texts)
    for row in rows:
        image, text = images.pop(row["key"], None), texts.pop(row["key"], None)
        if row["shard"] != number:
            findings.append(f"the manifest has {row['key']!r} in shard {row['shard']}, dataset.json in {number}")
        findings += _check_image(data, image, row)
        findings += _check_text(data, text, row, dataset.info)
    findings += [f"{key!r} is not in the manifest" for key in (images | texts)]
    more = len(findings) - MAX_FINDINGS
    shown = findings if more <= 0 else [*findings[:MAX_FINDINGS], f"and {more} more"]
    return [f"{shard.path}: {finding}" for finding in shown]


def _read_members(data: bytes, images: dict[str, ShardMember], texts: dict[str, ShardMember]) -> Iterator[str]:
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


def _sort(member: tarfile.TarInfo, images: dict[str, ShardMember], texts: dict[str, ShardMember]) -> Iterator[str]:
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
        place.setdefault(key, ShardMember(member.offset_data, member.size))


def _check_image(data: bytes, image: ShardMember | None, row: Mapping[str, Any]) -> Iterator[str]:
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


def _check_text(data: bytes, text: ShardMember | None, row: Mapping[str, Any], info: DatasetInfo) -> Iterator[str]:
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
    if not 0 <= row["label"] < len(info.class_names):
        return  # the manifest's fault, which its own check names
    expected = public_facts(row, info.class_names)
    names = expected if info.base is None else ("key",)
    if not isinstance(found, dict):
        yield f"the JSON of {key!r} is no object"
        return
    for name in names:
        if found.get(name) != expected[name]:
            yield f"the JSON of {key!r} says {name} {found.get(name)!r}, the manifest {expected[name]!r}"
