"""Folders and files as `make_shards guess` sees them: a few names and first bytes, whatever their number."""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from pyarrow import fs

from ldlva_dist import storage
from ldlva_dist.packing.classes.class_index import is_emotion, whole_number
from ldlva_dist.packing.sources.listing import is_hidden
from ldlva_dist.packing.sources.rows import EXTENSIONS

IMAGES, LABEL = "IMAGES", "LABEL"
"""What the user has to put in the place of it."""
TABLES, TARS = (".csv", ".tsv", ".txt"), (".tar", ".tar.gz", ".tgz")
PARTS = {"train": "train", "training": "train", "valid": "validation", "validation": "validation", "val": "validation"}
PARTS |= {"dev": "validation", "test": "test", "testing": "test"}


@dataclass(frozen=True)
class Candidate:
    """A kind of source that would fit, and how it is called."""

    kind: str
    arguments: tuple[str, ...]
    """What follows the kind on the command line."""
    why: str
    """What it was recognised by."""
    missing: tuple[str, ...] = field(default=())
    """Sentences on what is not there, or has to be said by the user."""
    is_sure: bool = True
    """Whether it was recognised by names; else by columns whose values repeat, which counts where nothing else fits."""


@dataclass(frozen=True)
class PathView:
    """A folder or a file."""

    uri: str

    @cached_property
    def entries(self) -> dict[str, bool]:
        """Names in a folder, and whether each is a folder; hidden ones are passed over, a file has none."""
        return _entries(self.uri)

    @property
    def folders(self) -> list[str]:
        """Names of the folders in it."""
        return [name for name, is_folder in self.entries.items() if is_folder]

    def files(self, endings: tuple[str, ...]) -> list[str]:
        """Names of the files in it with one of the endings."""
        return [name for name, is_folder in self.entries.items() if not is_folder and name.lower().endswith(endings)]

    def at(self, *names: str) -> "PathView":
        """What lies below."""
        return PathView(storage.join(self.uri, *names))

    def has(self, *names: str) -> bool:
        """Whether a file or folder lies below."""
        return storage.exists(storage.join(self.uri, *names))

    def any_case(self, *names: str) -> str | None:
        """The entry with one of these names, whatever its capitals."""
        return next((name for name in self.entries if name.lower() in names), None)

    def images(self) -> list[str]:
        """Names of image files directly in the folder."""
        return self.files(tuple(f".{extension}" for extension in EXTENSIONS))

    def are_classes(self) -> bool:
        """Whether the folder holds a folder for each class: known names, or numbers."""
        names = self.folders
        known = [name for name in names if is_emotion(name) or _number(name) is not None]
        return len(known) >= 2 and 2 * len(known) > len(names)

    def part_folders(self) -> dict[str, str]:
        """Folders that are parts: train, validation, test, by that name."""
        found = {PARTS[name.lower()]: name for name in self.folders if name.lower() in PARTS}
        return found if "train" in found else {}


def look_again() -> None:
    """Forget what folders held."""
    _entries.cache_clear()


def part_of(name: str, otherwise: str = "train") -> str:
    """The part that a file's name says."""
    words = name.lower().replace("_", "-").replace(".", "-").split("-")
    return next((PARTS[word] for word in words if word in PARTS), otherwise)


def _number(name: str) -> int | None:
    number = whole_number(name)
    return number if number is not None and 0 <= number <= 12 else None


@lru_cache(maxsize=256)
def _entries(uri: str) -> dict[str, bool]:
    filesystem, path = storage.resolve(uri)
    if not storage.is_remote(uri) and filesystem.get_file_info(path).type != fs.FileType.Directory:
        return {}
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    found = {info.path.rstrip("/").rpartition("/")[2]: info.type == fs.FileType.Directory for info in infos}
    return {name: found[name] for name in sorted(found) if name and not is_hidden(name)}
