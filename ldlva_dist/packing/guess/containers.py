"""How parquet files and tars are called: which column or field of them holds the label, and valence and arousal."""

import json
from collections.abc import Sequence

from ldlva_dist import storage
from ldlva_dist.errors import DataError
from ldlva_dist.packing.guess.look import PARTS, Candidate, PathView, part_of
from ldlva_dist.packing.guess.tables import AROUSALS, LABELS, VALENCES, riding_columns, usual_column
from ldlva_dist.packing.sources.readers.tar_members import Member, members
from ldlva_dist.packing.sources.rows import USUAL_NAMES
from ldlva_dist.packing.sources.user_columns import holds_images, parquet_schema

HEAD_BYTES = 4 << 20
TEST_MISSING = "there is no test part"


def guess_tars(uris: Sequence[str], why: str) -> Candidate:
    """Tars, by the part that their names say."""
    fields = _json_fields(uris[0])
    more = [] if fields is None else _roles(fields, "field")
    missing = (
        [] if fields is None or "--label-field" in more else [f"--label-field must name one of {', '.join(fields)}"]
    )
    return _by_part("webdataset", uris, more, why, missing)


def guess_parquet(uris: Sequence[str], why: str) -> Candidate | None:
    """Parquet files, by the part that their names say; None where they hold no images."""
    try:
        schema = parquet_schema(uris[0])
    except DataError:
        return None
    images = [field.name for field in schema if holds_images(field.type)]
    if not images:
        return None
    more = _roles(schema.names, "column")
    more += ["--image-column", images[0]] if len(images) > 1 else []
    known = "--label-column" in more or USUAL_NAMES["label"] in schema.names
    missing = [] if known else [f"--label-column must name one of {', '.join(schema.names)}"]
    missing += [f"several columns hold images: {', '.join(images)}"] if len(images) > 1 else []
    return _by_part("parquet", uris, more, why, missing)


def _roles(names: Sequence[str], what: str) -> list[str]:
    """Options for label, valence and arousal, and the columns that ride along."""
    label, valence, arousal = (usual_column(names, known) for known in (LABELS, VALENCES, AROUSALS))
    is_usual = what == "column" and label == USUAL_NAMES["label"]
    options = [f"--label-{what}", label] if label and not is_usual else []
    if valence and arousal and (what == "field" or (valence, arousal) != ("valence", "arousal")):
        options += [f"--valence-{what}", valence, f"--arousal-{what}", arousal]
    return options + riding_columns(names)


def _json_fields(uri: str) -> list[str] | None:
    """Names in the first JSON of a tar; None where the labels are .cls members, or the tar cannot be looked into."""
    if not uri.endswith(".tar"):
        return None
    data = memoryview(storage.read_bytes(uri, HEAD_BYTES))
    found = [entry for entry in members(data) if isinstance(entry, Member)]
    if any(member.name.endswith(".cls") for member in found):
        return None
    for member in found:
        if member.name.endswith(".json"):
            try:
                facts = json.loads(bytes(data[member.begin : member.end]))
            except (ValueError, RecursionError):
                return None
            return list(facts) if isinstance(facts, dict) else None
    return None


def _by_part(kind: str, uris: Sequence[str], more: list[str], why: str, missing: list[str]) -> Candidate:
    parts: dict[str, list[str]] = {}
    for uri in uris:
        folder, name = ("", *uri.split("/"))[-2:]
        parts.setdefault(part_of(name, PARTS.get(folder.lower(), "train")), []).append(uri)
    if kind == "parquet" and "validation" in parts:  # the kind has no validation part
        parts.setdefault("train", []).extend(parts.pop("validation"))
    if "train" not in parts:
        parts["train"] = parts.pop(next(iter(parts)))
        missing = [*missing, "no file is named as a training part"]
    missing = missing if "test" in parts else [*missing, TEST_MISSING]
    order = [part for part in dict.fromkeys(PARTS.values()) if part in parts]
    arguments = [text for part in order for text in (f"--{part}", *parts[part])]
    return Candidate(kind, (*arguments, *more), why, tuple(missing))


def in_folder(look: PathView, endings: tuple[str, ...]) -> list[str]:
    """The files of a folder with one of the endings."""
    return [storage.join(look.uri, name) for name in look.files(endings)]
