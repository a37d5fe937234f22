"""What the finished pieces of a job are made of, kept beside them: it resumes only with the same."""

import json
from collections.abc import Mapping
from typing import Any

from ldlva_dist import storage
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.values.typed_json import parse_object

ABOUT = "about.json"


def begin_pieces(folder: str, facts: Mapping[str, Any], setting: str) -> None:
    """Remember in a folder what its pieces will be made of, or see that an interrupted job had the same.

    Raises:
        SettingError: for a folder whose pieces are made of other things; ``setting`` is what the user can change.
        DataError: for one that does not say what they are made of.
    """
    uri = storage.join(folder, ABOUT)
    if storage.exists(uri):
        if others := differing(read_facts(uri), facts):
            raise SettingError(
                f"{setting} must be new for another model, other images or other settings: {folder} holds what an "
                f"interrupted job with others ({', '.join(others)}) has done (remove it to begin anew)"
            )
    elif storage.list_folder(folder):
        raise DataError(f"{folder} has no {ABOUT}, which says what its pieces are made of (remove it to begin anew)")
    else:
        storage.write_bytes(uri, json.dumps(facts, indent=1).encode())


def read_facts(uri: str) -> dict[str, Any]:
    """What such a file says; a damaged one is a DataError."""
    return parse_object(storage.read_bytes(uri), uri)


def differing(there: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Names of the facts that a file does not have as they are."""
    return [name for name, value in json.loads(json.dumps(facts)).items() if there.get(name) != value]
