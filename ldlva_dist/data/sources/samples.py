"""The samples of a WebDataset tar: which members belong together, and what they say."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import inf, nan
from typing import Any

from ldlva_dist.data.sources.listing import EXTENSIONS
from ldlva_dist.data.sources.tar_members import Damage, Member, members

UNSAFE = ("pkl", "pickle", "pyd", "pt", "pth", "ten", "tb", "npy", "npz", "joblib", "dill")
"""What other readers unpickle, or hand to code that may."""
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


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A row of a tar; ``reason`` says why it is rejected."""

    key: str
    image: bytes | None = None
    label: str | None = None
    va: tuple[float, float] = (nan, nan)
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """Members of one key that stand together, or a reason why there are none."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    """By extension, in small letters."""
    reason: str | None = None


def samples(tar: memoryview, name: str) -> Iterator[Found]:
    """What stands in a tar called ``name``, in its order; damages are found under ``name@BYTE``.

    Folders, hidden files and ``__names__`` of WebDataset's own are no samples.
    """
    entries = (entry for entry in members(tar) if isinstance(entry, Damage) or not _is_passed_over(entry))
    for key, group in groupby(entries, _key):
        together = list(group)
        if key is None:
            yield from (Found(key=f"{name}@{_place(entry)}", reason=_trouble(entry)) for entry in together)
            continue
        by_extension: dict[str, Member] = {}
        reason = None
        for member in together:
            assert isinstance(member, Member), "damages have no key"
            extension = member.name.rpartition("/")[2].partition(".")[2].lower()
            if extension in by_extension:
                reason = f"it has two .{extension} members"
            if not member.is_file:
                reason = f"its .{extension} member is a link or a device"
            by_extension[extension] = member
        yield Found(key=key, members=by_extension, reason=reason)


def parse(found: Found, tar: memoryview, fields: Fields) -> Sample:
    """Open a sample's image, JSON and class; a sample that is not as it should be comes with the reason."""
    unsafe = [name for name in found.members if name.rpartition(".")[2] in UNSAFE and name not in fields.ignore]
    images = [name for name in found.members if name in fields.image]
    blank = Sample(key=found.key, reason=found.reason)
    if blank.reason:
        return blank
    if unsafe:
        return replace(blank, reason=f"it has a .{unsafe[0]} member, which is never opened")
    if len(images) != 1:
        return replace(blank, reason="it has several image members" if images else "it has no image member")
    try:
        facts = _json(found, tar) if fields.label or fields.valence else {}
        label = _label(facts.get(fields.label)) if fields.label else _cls(found, tar)
        va = tuple(nan if name is None else _number(facts.get(name)) for name in (fields.valence, fields.arousal))
    except _BadSampleError as error:
        return replace(blank, reason=str(error))
    image = found.members[images[0]]
    return replace(blank, image=bytes(tar[image.begin : image.end]), label=label, va=(va[0], va[1]))


class _BadSampleError(Exception):
    """Why a sample is rejected."""


def _is_passed_over(member: Member) -> bool:
    name = member.name.rpartition("/")[2]
    return member.is_folder or name.startswith(".") or (name.startswith("__") and name.endswith("__"))


def _key(entry: Member | Damage) -> str | None:
    """The path up to the first dot of the file name; None for what can be in no sample."""
    if isinstance(entry, Damage) or _trouble(entry):
        return None
    folder, slash, name = entry.name.rpartition("/")
    return folder.removeprefix("./") + slash + name.partition(".")[0]


def _trouble(entry: Member | Damage) -> str | None:
    if isinstance(entry, Damage):
        return entry.reason
    if entry.name.startswith("/") or ".." in entry.name.split("/") or not entry.name.isprintable():
        return f"the name of a member is not safe: {entry.name!r}"
    return None if "." in entry.name.rpartition("/")[2] else f"the member {entry.name!r} has no extension"


def _place(entry: Member | Damage) -> int:
    return entry.at if isinstance(entry, Damage) else entry.begin


def _text(found: Found, extension: str, tar: memoryview, limit: int) -> str:
    member = found.members.get(extension)
    if member is None:
        raise _BadSampleError(f"it has no .{extension} member")
    if member.end - member.begin > limit:
        raise _BadSampleError(f"its .{extension} member has more than {limit} bytes")
    try:
        return bytes(tar[member.begin : member.end]).decode()
    except UnicodeDecodeError as error:
        raise _BadSampleError(f"its .{extension} member is no text") from error


def _json(found: Found, tar: memoryview) -> dict[str, Any]:
    text = _text(found, "json", tar, MAX_JSON)
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _BadSampleError("its .json member is no JSON") from error
    if not isinstance(facts, dict):
        raise _BadSampleError("its .json member is no JSON object")
    return facts


def _cls(found: Found, tar: memoryview) -> str | None:
    return _label(_text(found, "cls", tar, MAX_CLS).strip())


def _label(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.isprintable():
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        return str(int(value))
    raise _BadSampleError("its label is neither a name nor an index")


def _number(value: Any) -> float:
    """A number; NaN for null, infinity for anything else."""
    if value is None:
        return nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        return inf
    return float(value) if abs(value) <= 1 else inf
