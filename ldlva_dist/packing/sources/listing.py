"""The image files in a folder and in the folders below it, and what is passed over there."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import pyarrow as pa
from pyarrow import fs

from ldlva_dist import storage
from ldlva_dist.errors import ClusterError, DataError
from ldlva_dist.packing.sources.rows import EXTENSIONS

FOLDERS_OF_OTHERS = ("@eadir", "@recycle", "#recycle", "__macosx", "$recycle.bin", "lost+found")
"""Folders that file servers and systems put among a user's folders."""
BROKEN, TO_LISTED = "broken links", "links to what is listed anyway, or to a folder above"
MOST_COMMON = 8


@dataclass(frozen=True)
class Listing:
    """The images below a folder, and how much of what else is there."""

    paths: pa.StringArray
    """From the folder on, sorted."""
    folders: frozenset[str] = frozenset()
    """Names of the folders directly in it."""
    others: Mapping[str, int] = field(default_factory=dict)
    """Files that are no images, by extension."""
    hidden: Mapping[str, int] = field(default_factory=dict)
    """Hidden files and folders, by name."""
    links: Mapping[str, int] = field(default_factory=dict)
    """Links that were not followed, by why."""

    def passed_over(self) -> list[str]:
        """What is passed over, in one line; none where that is nothing."""
        said = []
        if self.others:
            said.append(f"{sum(self.others.values())} files ({_counted(self.others)})")
        if self.hidden:
            said.append(f"{sum(self.hidden.values())} hidden ({_counted(self.hidden)})")
        said += [f"{count} {why}" for why, count in sorted(self.links.items())]
        return [f"passed over: {', '.join(said)}"] if said else []


@lru_cache(maxsize=8)
def list_images(uri: str) -> Listing:
    """The images below the folder ``uri``, listed once per process; hidden files and folders are passed over.

    Each file comes once: a link is followed unless it leads to what is listed anyway, or to a folder above.

    Raises:
        DataError: where there is no such folder, or a name in it is no text.
    """
    try:
        found = _Remote(uri) if storage.is_remote(uri) else _Local(storage.resolve(uri)[1])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"there is no folder {uri}") from error
    except OSError as error:
        raise ClusterError(f"the store failed at {uri}: {error}") from error
    try:
        paths = pa.array(sorted(found.paths), pa.string())
    except UnicodeEncodeError as error:
        raise DataError(f"names of files must be UTF-8 text, got {os.fsencode(error.object)!r} in {uri}") from error
    return Listing(paths, frozenset(found.folders), found.others, found.hidden, found.links)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: it begins with a dot, or a system made it."""
    return name.startswith(".") or name.lower() in FOLDERS_OF_OTHERS


def count_others(names: Sequence[str]) -> str:
    """How many of some names have which extension: ``.txt 10, .gz 2``."""
    return _counted(Counter(map(_extension, names)))


class _Found:
    """What a folder holds, as it is found."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.folders: set[str] = set()
        self.others: Counter[str] = Counter()
        self.hidden: Counter[str] = Counter()
        self.links: Counter[str] = Counter()

    def add(self, path: str) -> None:
        """Take a file, or count it."""
        if _is_image(path):
            self.paths.append(path)
        else:
            self.others[_extension(path)] += 1

    def hide(self, name: str) -> None:
        """Count a hidden name; macOS makes one of its own for each file."""
        self.hidden["._*" if name.startswith("._") else name] += 1


class _Remote(_Found):
    """Keys of a store; a folder is what stands before a slash in them."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        filesystem, path = storage.resolve(uri)
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        hidden: set[str] = set()
        for info in infos:
            names = info.path[len(path) + 1 :].rstrip("/").split("/")
            first = next((end for end, name in enumerate(names, 1) if is_hidden(name)), None)
            if first is not None:
                hidden.add("/".join(names[:first]))
            elif info.type == fs.FileType.File and not info.path.endswith("/"):
                self.add("/".join(names))
                self.folders.update(names[:-1][:1])
        for path in hidden:
            self.hide(path.rpartition("/")[2])


class _Local(_Found):
    """A folder on disk: real folders first, then the folders that links lead to, then files."""

    def __init__(self, root: str) -> None:
        super().__init__()
        top = os.path.realpath(root)
        self._above = {top}
        while (up := os.path.dirname(min(self._above, key=len))) not in self._above:
            self._above.add(up)
        self._seen: set[str] = set()
        self._links: list[tuple[str, str]] = []
        self._files: list[tuple[str, str]] = []
        self._walk(top, "")
        while self._links:
            links, self._links = sorted(self._links), []
            for name, path in links:
                self._follow(name, path)
        for name, real in sorted(self._files):
            self._take_linked(name, real)

    def _walk(self, folder: str, prefix: str) -> None:
        todo = [(folder, prefix)]
        while todo:
            folder, prefix = todo.pop()
            self._seen.add(folder)
            with os.scandir(folder) as entries:
                todo += self._sorted_out(entries, prefix)

    def _sorted_out(self, entries: Iterator[os.DirEntry[str]], prefix: str) -> Iterator[tuple[str, str]]:
        """The folders among the entries; files are taken, links are left for later."""
        for entry in entries:
            name = prefix + entry.name
            if is_hidden(entry.name):
                self.hide(entry.name)
            elif entry.is_symlink():
                self._links.append((name, entry.path))
            elif not entry.is_dir(follow_symlinks=False):
                self._take(name, is_file=entry.is_file(follow_symlinks=False))
            elif entry.path not in self._seen:
                self._enter(name)
                yield entry.path, f"{name}/"

    def _enter(self, name: str) -> None:
        if "/" not in name:
            self.folders.add(name)

    def _take(self, name: str, *, is_file: bool) -> None:
        if is_file:
            self.add(name)
        else:
            self.others["pipes and devices"] += 1

    def _follow(self, name: str, path: str) -> None:
        real = os.path.realpath(path)
        try:
            mode = os.stat(path).st_mode
        except OSError:  # it leads nowhere, or to itself
            self.links[BROKEN] += 1
            return
        if not stat.S_ISDIR(mode):
            self._files.append((name, real))
        elif real in self._seen or real in self._above:
            self.links[TO_LISTED] += 1
        else:
            self._enter(name)
            self._walk(real, f"{name}/")

    def _take_linked(self, name: str, real: str) -> None:
        folder, file = os.path.split(real)
        if real in self._seen or (folder in self._seen and _is_image(file) and not is_hidden(file)):
            self.links[TO_LISTED] += 1
        else:
            self._seen.add(real)
            self._take(name, is_file=os.path.isfile(real))


def _is_image(path: str) -> bool:
    return path.lower().rpartition(".")[2] in EXTENSIONS


def _extension(path: str) -> str:
    stem, dot, extension = path.rpartition("/")[2].rpartition(".")
    return f".{extension.lower()}" if stem and dot else "no extension"


def _counted(counts: Mapping[str, int]) -> str:
    common = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    more = len(common) - MOST_COMMON
    said = [f"{name if name.isprintable() else repr(name)} {count}" for name, count in common[:MOST_COMMON]]
    return ", ".join(said + ([f"and {more} more kinds"] if more > 0 else []))
