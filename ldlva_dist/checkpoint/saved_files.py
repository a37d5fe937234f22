"""Checkpoints as files on storage: RUN/step-N, made whole by its ``state.json``.

``state.json`` is written last, when every rank's files lie there. A folder without it is no checkpoint; whoever wrote
there was stopped, or is at it. When one is deleted it goes first. The bank's actors read back their rows by this
module: no torch here.
"""

import io
from typing import Self

from ldlva_dist import storage
from ldlva_dist.checkpoint.state_file import STATE, Facts, read_state
from ldlva_dist.errors import DataError
from ldlva_dist.storage import checksums
from ldlva_dist.storage.checksums import Entry, Files

CHECKPOINT_PREFIX = "step-"
BANK_FOLDER = "bank"


class SavedFiles:
    """Files of a finished checkpoint. Whatever is read of them is checked against its list."""

    def __init__(self, uri: str, facts: Facts) -> None:
        """Take what the list of the checkpoint at ``uri`` says."""
        self.uri, self.facts = uri, facts
        self._entries: dict[str, Entry] = facts["files"]

    @classmethod
    def open(cls, uri: str) -> Self:
        """Read the list of a checkpoint.

        Raises:
            DataError: if there is none, if it is damaged, or if its format is another than this program's.
        """
        return cls(uri, read_state(uri))

    @classmethod
    def newest(cls, run_uri: str) -> Self | None:
        """Open the newest finished checkpoint of a run, or a checkpoint itself; None if there is none.

        Raises:
            DataError: if its list is damaged, or its format is another than this program's.
        """
        uri = newest_finished(run_uri)
        return cls.open(uri) if uri else None

    @property
    def bank_files(self) -> Files:
        """Entries of the bank's files by uri; none for a run without neighbours."""
        return self.files(BANK_FOLDER)

    def names(self, folder: str = "") -> list[str]:
        """The files below a folder of the checkpoint, sorted; all of them without one."""
        return sorted(name for name in self._entries if not folder or name.startswith(f"{folder}/"))

    def size(self, name: str) -> int:
        """Bytes of a file, as the list says."""
        return self._entries[name]["size"]

    def crc32(self, name: str) -> int:
        """Checksum of a file, as the list says."""
        return self._entries[name]["crc32"]

    def files(self, folder: str) -> Files:
        """What the list says of the files below a folder, by uri."""
        return {storage.join(self.uri, name): self._entries[name] for name in self.names(folder)}

    def read(self, name: str) -> bytes:
        """A whole file; DataError if it is missing or damaged."""
        if name not in self._entries:
            raise DataError(f"{self.uri} has no {name}")
        uri = storage.join(self.uri, name)
        data = storage.read_bytes(uri)
        checksums.compare(uri, self._entries[name], checksums.describe(data))
        return data

    def check(self, name: str) -> None:
        """DataError if a file is missing or damaged; reads it piece by piece."""
        with checksums.open_file(storage.join(self.uri, name), self._entries[name]):
            pass


def checkpoint_uri(run_uri: str, step: int) -> str:
    """Where a run keeps its checkpoint of ``step`` steps."""
    return storage.join(run_uri, f"{CHECKPOINT_PREFIX}{step:08d}")


def checkpoint_steps(run_uri: str) -> list[int]:
    """Steps of a run's checkpoints, newest first, unfinished ones too."""
    names = [name for name in storage.list_folder(run_uri) if name.startswith(CHECKPOINT_PREFIX)]
    numbers = [name.removeprefix(CHECKPOINT_PREFIX) for name in names]
    return sorted((int(number) for number in numbers if number.isdigit()), reverse=True)


def checkpoint_uris(run_uri: str) -> list[str]:
    """Addresses of a run's checkpoints, newest first, unfinished ones too."""
    return [checkpoint_uri(run_uri, step) for step in checkpoint_steps(run_uri)]


def is_finished(uri: str) -> bool:
    """Whether a checkpoint was written to its end."""
    return storage.exists(storage.join(uri, STATE))


def newest_finished(run_uri: str) -> str | None:
    """Address of the newest finished checkpoint of a run, or of a checkpoint itself; None if there is none."""
    if is_finished(run_uri):
        return run_uri
    return next(filter(is_finished, checkpoint_uris(run_uri)), None)


def newest_bank_files(run_uri: str) -> Files:
    """The bank's files in a run's newest finished checkpoint, for a shard that was lost; none if there is none."""
    saved = SavedFiles.newest(run_uri)
    return saved.bank_files if saved else {}


def write_saved_file(uri: str, name: str, data: bytes) -> Entry:
    """Write one file of a checkpoint that is being made; returns what the list has to say of it."""
    return checksums.write(storage.join(uri, name), io.BytesIO(data), len(data))


def discard_checkpoint(uri: str) -> None:
    """Delete a checkpoint, finished or not; whoever reads it meanwhile finds none rather than half of one."""
    storage.delete_file(storage.join(uri, STATE))
    storage.delete_folder(uri)
