"""Checkpoints on storage: RUN/step-N, made whole by its ``state.json``.

``state.json`` is written last, when every rank's files lie there. It lists them with sizes and CRC-32s, and carries a
checksum of itself: whoever can read it knows what belongs to the checkpoint, and whether it is undamaged. A folder
without it is no checkpoint; whoever wrote there was stopped, or is at it. When one is deleted it goes first.
"""

import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from isal import isal_zlib

from ldlva_dist import storage
from ldlva_dist.errors import DataError
from ldlva_dist.storage import checksums
from ldlva_dist.storage.checksums import Entry, Files
from ldlva_dist.values.typed_json import parse_object

FORMAT_VERSION = 2
STATE = "state.json"
PREFIX = "step-"
MOST = 1 << 48
"""Of anything that is counted, in bytes too."""


class UnknownFormatError(DataError):
    """A checkpoint of another version of this program: not damaged, but of no use to this one."""


class Checkpoint:
    """A finished checkpoint. Whatever is read of it is checked against its list."""

    def __init__(self, uri: str) -> None:
        """Read the list.

        Raises:
            DataError: if there is none, if it is damaged, or if its format is another than this program's.
        """
        self.uri = uri
        text = storage.read_bytes(storage.join(uri, STATE))
        self.facts = _parse(uri, text)
        self._files: dict[str, Entry] = self.facts["files"]

    def names(self, folder: str = "") -> list[str]:
        """The files below a folder of the checkpoint, sorted; all of them without one."""
        return sorted(name for name in self._files if not folder or name.startswith(f"{folder}/"))

    def size(self, name: str) -> int:
        """Bytes of a file, as the list says."""
        return self._files[name]["size"]

    def crc32(self, name: str) -> int:
        """Checksum of a file, as the list says."""
        return self._files[name]["crc32"]

    def files(self, folder: str) -> Files:
        """What the list says of the files below a folder, by uri."""
        return {storage.join(self.uri, name): self._files[name] for name in self.names(folder)}

    def read(self, name: str) -> bytes:
        """A whole file; DataError if it is missing or damaged."""
        if name not in self._files:
            raise DataError(f"{self.uri} has no {name}")
        uri = storage.join(self.uri, name)
        data = storage.read_bytes(uri)
        checksums.compare(uri, self._files[name], checksums.describe(data))
        return data

    def check(self, name: str) -> None:
        """DataError if a file is missing or damaged; reads it piece by piece."""
        with checksums.open_file(storage.join(self.uri, name), self._files[name]):
            pass


def write_file(uri: str, name: str, data: bytes) -> Entry:
    """Write one file of a checkpoint that is being made; returns what the list has to say of it."""
    return checksums.write(storage.join(uri, name), io.BytesIO(data), len(data))


def finish(uri: str, facts: Mapping[str, Any], files: Mapping[str, Entry]) -> None:
    """Make a checkpoint of the files that lie in the folder ``uri``."""
    facts = {"format_version": FORMAT_VERSION, **facts, "files": dict(sorted(files.items()))}
    text = json.dumps(facts | {"crc32": _checksum(facts)}, indent=2) + "\n"
    storage.write_bytes(storage.join(uri, STATE), text.encode())


def discard(uri: str) -> None:
    """Delete a checkpoint, finished or not; whoever reads it meanwhile finds none rather than half of one."""
    storage.delete_file(storage.join(uri, STATE))
    storage.delete_folder(uri)


def uri_of(run_uri: str, step: int) -> str:
    """Where a run keeps its checkpoint of ``step`` steps."""
    return storage.join(run_uri, f"{PREFIX}{step:08d}")


def steps_there(run_uri: str) -> list[int]:
    """Steps of a run's checkpoints, newest first, unfinished ones too."""
    numbers = [name.removeprefix(PREFIX) for name in storage.list_folder(run_uri) if name.startswith(PREFIX)]
    return sorted((int(number) for number in numbers if number.isdigit()), reverse=True)


def is_finished(uri: str) -> bool:
    """Whether a checkpoint was written to its end."""
    return storage.exists(storage.join(uri, STATE))


def worth_keeping(accuracies: Mapping[int, float | None], num_to_keep: int) -> set[int]:
    """Of a run's finished checkpoints (step to holdout accuracy): the newest ones and the best; a tie to the later."""
    best = [(accuracy, step) for step, accuracy in accuracies.items() if accuracy is not None]
    return set(sorted(accuracies)[-num_to_keep:]) | ({max(best)[1]} if best else set())


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


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST


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
"""What the values of ``state.json`` must be."""


def _parse(uri: str, text: bytes) -> Facts:
    uri_of_state = storage.join(uri, STATE)
    facts = parse_object(text, uri_of_state)
    if "format_version" not in facts:
        raise DataError(f"{uri_of_state} is damaged: it has no format_version")
    version, crc = facts["format_version"], facts.pop("crc32", None)
    if crc is not None and crc != _checksum(facts):
        raise DataError(f"{uri_of_state} is damaged: checksum should be {ascii(crc)[:20]}, got {_checksum(facts)}")
    if version != FORMAT_VERSION:
        why = "; its files have no checksums, and its place in the data means other samples today" * (version == 1)
        raise UnknownFormatError(
            f"{uri} has format_version {ascii(version)[:20]}, this program reads {FORMAT_VERSION}{why}: "
            "train again under another name, or use the program that wrote it"
        )
    if crc is None:
        raise DataError(f"{uri_of_state} is damaged: it has no checksum")
    return Facts(uri_of_state, facts)


def _checksum(facts: Mapping[str, Any]) -> int:
    return isal_zlib.crc32(json.dumps(facts, sort_keys=True).encode())
