"""``state.json``: the list that makes a checkpoint of the files beside it, and the facts of the run at that step.

It lists the files with sizes and CRC-32s, and carries a checksum of itself: whoever can read it knows what belongs to
the checkpoint, and whether it is undamaged.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from isal import isal_zlib

from ldlva_dist import storage
from ldlva_dist.errors import DataError
from ldlva_dist.storage.checksums import Entry
from ldlva_dist.values.typed_json import parse_object

STATE_FORMAT = 2
STATE = "state.json"
MOST_COUNTED = 1 << 48
"""Limit of anything that is counted, in bytes too."""


class UnknownFormatError(DataError):
    """A checkpoint of another version of this program: not damaged, but of no use to this one."""


class Facts(dict[str, Any]):
    """What ``state.json`` says; asking for what it does not is a DataError."""

    def __init__(self, uri: str, values: Mapping[str, Any]) -> None:
        """Check the values that the program knows."""
        super().__init__(values)
        self._uri = uri
        for name, (rule, holds) in RULES.items():
            if name in self and not holds(self[name]):
                raise DataError(f"{uri} is damaged: {name} must be {rule}, got {ascii(self[name])[:80]}")

    def __missing__(self, name: str) -> Any:
        raise DataError(f"{self._uri} is damaged: it has no {name}")


def read_state(checkpoint_uri: str) -> Facts:
    """The facts of a checkpoint.

    Raises:
        UnknownFormatError: for one that another version of this program wrote.
        DataError: where there is none, or it is damaged.
    """
    uri = storage.join(checkpoint_uri, STATE)
    facts = parse_object(storage.read_bytes(uri), uri)
    if "format_version" not in facts:
        raise DataError(f"{uri} is damaged: it has no format_version")
    version, crc = facts["format_version"], facts.pop("crc32", None)
    if crc is not None and crc != _checksum(facts):
        raise DataError(f"{uri} is damaged: checksum should be {ascii(crc)[:20]}, got {_checksum(facts)}")
    if version != STATE_FORMAT:
        why = "; its files have no checksums, and its place in the data means other samples today" * (version == 1)
        raise UnknownFormatError(
            f"{checkpoint_uri} has format_version {ascii(version)[:20]}, this program reads {STATE_FORMAT}{why}: "
            "train again under another name, or use the program that wrote it"
        )
    if crc is None:
        raise DataError(f"{uri} is damaged: it has no checksum")
    return Facts(uri, facts)


def write_state(checkpoint_uri: str, facts: Mapping[str, Any], files: Mapping[str, Entry]) -> None:
    """Make a checkpoint of the files that lie in the folder ``checkpoint_uri``."""
    facts = {"format_version": STATE_FORMAT, **facts, "files": dict(sorted(files.items()))}
    text = json.dumps(facts | {"crc32": _checksum(facts)}, indent=2) + "\n"
    storage.write_bytes(storage.join(checkpoint_uri, STATE), text.encode())


def _checksum(facts: Mapping[str, Any]) -> int:
    return isal_zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_COUNTED


def _is_inside(name: str) -> bool:
    """Whether a name leads to a file in the checkpoint's own folder."""
    return "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def _are_entries(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_inside(name)
        and isinstance(entry, dict)
        and entry.keys() == {"size", "crc32"}
        and all(map(_is_count, entry.values()))
        for name, entry in value.items()
    )


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(number is None or type(number) in (int, float) for number in value.values())


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


_COUNT = ("a count", _is_count)
_TEXT = ("a text", lambda value: isinstance(value, str))
RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("step", "plan_version", "world_size", "skipped_steps", "num_train"), _COUNT),
    **dict.fromkeys(("content_hash", "rows_hash"), _TEXT),
    "class_names": ("a list of texts", _are_texts),
    "metrics": ("an object of numbers", _are_numbers),
    "files": ("an object of files with their sizes and checksums", _are_entries),
}
"""Rules that the values of ``state.json`` must keep."""
