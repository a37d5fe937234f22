"""The samples of a WebDataset tar: which members belong together, and what they say."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import nan
from typing import Any

from ldlva_dist.packing.sources.listing import is_hidden
from ldlva_dist.packing.sources.readers.tar_members import Damage, Member, members
from ldlva_dist.packing.sources.rows import EXTENSIONS, LEFT_OUT
from ldlva_dist.packing.tables.cells import CellError, label_of, number_of

UNSAFE = ("pkl", "pickle", "pyd", "pt", "pth", "ten", "tb", "npy", "npz", "joblib", "dill")
"""Extensions that other readers unpickle, or hand to code that may."""
LABELS = ("cls", "json")
TAR = ".tar"
BAD_LABEL = "its label is neither a name nor an index"
MAX_JSON, MAX_CLS = 1 << 20, 1 << 10


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Where a sample's facts stand."""

    image: tuple[str, ...] = EXTENSIONS
    """Extensions of image members; a sample has exactly one of them."""
    label: str | None = None
    """Field of the JSON; None takes the ``.cls`` member."""
    valence: str | None = None
    arousal: str | None = None
    ignore: tuple[str, ...] = ()
    """Extensions of members that are passed over although they are unsafe."""
    va_scale: tuple[float, float] | None = None
    """Numbers that stand for -1 and 1; None: the numbers are in [-1, 1], and -2 says that there is none."""
    extra: tuple[str, ...] = ()
    """Fields of the JSON that ride along."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A row of a tar; ``reason`` says why it is rejected."""

    key: str
    image: bytes | None = None
    label: str | None = None
    va: tuple[float, float] = (nan, nan)
    reason: str | None = None
    extra: tuple[str | None, ...] = ()
    """Values of ``Fields.extra``."""
    flaw: str | None = None
    """Fault of the tar rather than of this sample, where there is one."""


@dataclass(frozen=True, kw_only=True)
class FoundMembers:
    """Members of one key that stand together, or a reason why they are no sample."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    """By extension, in small letters."""
    reason: str | None = None


def read_samples(tar: memoryview, name: str, fields: Fields) -> Iterator[Sample]:
    """What stands in a tar called ``name``, in its order; damages are found under ``name@BYTE``.

    Folders and ``__names__`` of WebDataset's own are no samples, and hidden files are left out. What is wrong with the
    tar itself comes as a ``flaw``: how many samples it hides, nobody knows. Samples of a tar in the tar have its name
    before theirs.
    """
    hidden: list[Member] = []
    empty = True
    for key, group in groupby(_shown(members(tar), hidden), _key):
        empty = False
        if key is not None and key.lower().endswith(TAR):
            for member in group:
                assert isinstance(member, Member), "only members have a key"
                yield from _read_tar_in_tar(member, tar, name, fields)
            continue
        if key is None:
            yield from (_lost(entry, name) for entry in group)
        else:
            yield from _read_key(key, [entry for entry in group if isinstance(entry, Member)], tar, fields)
    if empty:
        yield _flawed(name, "the tar is empty: it holds no samples", f"{name} holds no samples")
    for member in hidden:
        yield Sample(key=f"{name}@{member.begin}", reason=f"{LEFT_OUT}hidden files")


def _read_tar_in_tar(member: Member, tar: memoryview, name: str, fields: Fields) -> Iterator[Sample]:
    """The samples of a member that is a tar itself."""
    if not member.is_file:
        yield Sample(key=f"{name}@{member.begin}", reason="a tar in it is no plain file")
        return
    folder = member.name.removeprefix("./")[: -len(TAR)]
    for sample in read_samples(tar[member.begin : member.end], f"{name}/{member.name}", fields):
        yield replace(sample, key=f"{folder}/{sample.key}")


def _shown(entries: Iterable[Member | Damage], hidden: list[Member]) -> Iterator[Member | Damage]:
    """The entries that may be of samples."""
    for entry in entries:
        if isinstance(entry, Member):
            *folders, file = entry.name.split("/")
            if entry.is_folder or (file.startswith("__") and file.endswith("__")):
                continue
            if any(is_hidden(part) for part in (*folders, file) if part not in (".", "..")):
                hidden.append(entry)
                continue
        yield entry


def _lost(entry: Member | Damage, name: str) -> Sample:
    if isinstance(entry, Damage):
        return _flawed(f"{name}@{entry.at}", entry.reason, f"{name}: {entry.reason}")
    return Sample(key=f"{name}@{entry.begin}", reason=_trouble(entry))


def _flawed(key: str, flaw: str, left_out: str) -> Sample:
    return Sample(key=key, reason=f"{LEFT_OUT}{left_out}", flaw=flaw)


def _read_key(key: str, together: Sequence[Member], tar: memoryview, fields: Fields) -> Iterator[Sample]:
    """The sample whose members stand together under one key; every one, where a dot in their names hides several."""
    images = [member for member in together if _extension(member) in fields.image]
    if len(images) > 1:
        flaw = f"{images[0].name!r} and {images[1].name!r} are two images of one key (--image-extensions names the one)"
        yield _flawed(key, flaw, "two images of one key")
        return
    dotted = _dotted(together, fields)
    for stem, member in dotted.items():
        flaw = f"the name {member.name!r} has a dot before its extension: a key ends at the first dot, here {key!r}"
        yield _flawed(f"{key}.{stem}", flaw, "a dot in the name")
    rest = [member for member in together if _extension(member).rpartition(".")[:2] not in {(s, ".") for s in dotted}]
    if rest:
        yield parse_sample(_found(key, rest), tar, fields)


def _dotted(together: Sequence[Member], fields: Fields) -> dict[str, Member]:
    """Images that look like samples of their own by what stands before their last dot: they come with a label.

    In ``0.jpg``, ``0.cls`` and ``0.mask.png`` the mask is none, and neither is an image that was asked for.
    """
    extensions = {_extension(member) for member in together}
    is_labelled = not extensions.isdisjoint(LABELS)
    found: dict[str, Member] = {}
    for member in together:
        stem, dot, last = _extension(member).rpartition(".")
        if dot and last in EXTENSIONS and _extension(member) not in fields.image:
            own = not extensions.isdisjoint(f"{stem}.{label}" for label in LABELS)
            if own or not is_labelled:
                found.setdefault(stem, member)
    return found


def _found(key: str, together: Sequence[Member]) -> FoundMembers:
    by_extension: dict[str, Member] = {}
    reason = None
    for member in together:
        extension = _extension(member)
        if extension in by_extension:
            reason = f"it has two .{extension} members"
        if not member.is_file:
            reason = f"its .{extension} member is no plain file"
        by_extension[extension] = member
    return FoundMembers(key=key, members=by_extension, reason=reason)


def _extension(member: Member) -> str:
    """All that follows the first dot of the file name, in small letters."""
    return member.name.rpartition("/")[2].partition(".")[2].lower()


def parse_sample(found: FoundMembers, tar: memoryview, fields: Fields) -> Sample:
    """Open a sample's image, JSON and class; a sample that is not as it should be comes with the reason."""
    unsafe = [name for name in found.members if name.rpartition(".")[2] in UNSAFE and name not in fields.ignore]
    images = [name for name in found.members if name in fields.image]
    blank = Sample(key=found.key, reason=found.reason)
    if blank.reason:
        return blank
    if unsafe:
        return replace(blank, reason=f"it has a .{unsafe[0]} member, which is never opened")
    if not images:
        return replace(blank, reason="it has no image member")
    try:
        facts = _json(found, tar) if fields.label or fields.valence or fields.extra else {}
        label = _label(facts.get(fields.label)) if fields.label else _cls(found, tar)
        va = tuple(nan if name is None else number_of(facts.get(name)) for name in (fields.valence, fields.arousal))
        extra = tuple(_label(facts.get(name)) for name in fields.extra)
    except _BadSampleError as error:
        return replace(blank, reason=str(error))
    image = found.members[images[0]]
    return replace(blank, image=bytes(tar[image.begin : image.end]), label=label, va=(va[0], va[1]), extra=extra)


class _BadSampleError(Exception):
    """Why a sample is rejected."""


def _key(entry: Member | Damage) -> str | None:
    """The path up to the first dot of the file name; None for what can be in no sample."""
    if isinstance(entry, Damage) or _trouble(entry):
        return None
    folder, slash, name = entry.name.rpartition("/")
    if name.lower().endswith(TAR):
        return entry.name
    return folder.removeprefix("./") + slash + name.partition(".")[0]


def _trouble(entry: Member | Damage) -> str | None:
    if isinstance(entry, Damage):
        return entry.reason
    if entry.name.startswith("/") or ".." in entry.name.split("/") or not entry.name.isprintable():
        return f"the name of a member is not safe: {entry.name!r}"
    return None if "." in entry.name.rpartition("/")[2] else f"the member {entry.name!r} has no extension"


def _text(found: FoundMembers, extension: str, tar: memoryview, limit: int) -> str:
    member = found.members.get(extension)
    if member is None:
        raise _BadSampleError(f"it has no .{extension} member")
    if member.end - member.begin > limit:
        raise _BadSampleError(f"its .{extension} member has more than {limit} bytes")
    try:
        return bytes(tar[member.begin : member.end]).decode()
    except UnicodeDecodeError as error:
        raise _BadSampleError(f"its .{extension} member is no text") from error


def _json(found: FoundMembers, tar: memoryview) -> dict[str, Any]:
    text = _text(found, "json", tar, MAX_JSON)
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _BadSampleError("its .json member is no JSON") from error
    if not isinstance(facts, dict):
        raise _BadSampleError("its .json member is no JSON object")
    return facts


def _cls(found: FoundMembers, tar: memoryview) -> str | None:
    return _label(_text(found, "cls", tar, MAX_CLS).strip())


def _label(value: Any) -> str | None:
    try:
        label = label_of(value)
    except CellError as error:
        raise _BadSampleError(BAD_LABEL) from error
    if label is not None and not label.isprintable():
        raise _BadSampleError(BAD_LABEL)
    return label
