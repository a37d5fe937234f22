"""What a finished checkpoint says: facts, settings, weights; and which checkpoint of a run is the newest."""

from collections.abc import Mapping
from typing import Any

from ldlva_dist.checkpoint import checkpoint
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.config import RunConfig, read_back
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.models.weights_file import read_safetensors

WEIGHTS = "model.safetensors"


def read_facts(
    checkpoint_uri: str, info: DatasetInfo | None = None, *, allow_other_version: bool = False
) -> dict[str, Any]:
    """``state.json`` of a checkpoint, checked against the data set it is to be used with.

    Raises:
        SettingError: for a checkpoint of other classes, or of another data set or version unless that is allowed.
        DataError: for a damaged one, or one of a format this version does not know.
    """
    facts = Checkpoint(checkpoint_uri).facts
    if info is None:
        return facts
    if facts["class_names"] != list(info.class_names):
        raise SettingError(
            f"data.dataset must have the checkpoint's classes in its order ({', '.join(facts['class_names'])}), "
            f"got {', '.join(info.class_names)}"
        )
    if facts["content_hash"] != info.content_hash and not allow_other_version:
        raise SettingError(
            f"data.dataset must be the version the checkpoint was trained on ({facts['content_hash'][:12]}), "
            f"got {info.content_hash[:12]}; training on another version begins anew, under another name; "
            "jobs/evaluate.py judges on another version with --allow-other-version"
        )
    return facts


def require_same_plan(checkpoint_uri: str, facts: Mapping[str, Any], plan_version: int) -> None:
    """DataError for a checkpoint whose run dealt out the samples by other rules: its step is no place in ours."""
    if facts["plan_version"] != plan_version:
        raise DataError(
            f"{checkpoint_uri} was trained by version {facts['plan_version']} of the plan, this program has version "
            f"{plan_version}, which deals out the samples in another order: its run cannot go on; "
            "it can be evaluated, and another run can begin under another name"
        )


def has_rows_of(facts: Mapping[str, Any], info: DatasetInfo) -> bool:
    """Whether a sample's id means the same to the checkpoint with these facts and to a data set or version."""
    return facts.get("rows_hash", facts["content_hash"]) == info.rows_hash


def last_checkpoint(run_uri: str) -> str | None:
    """The newest finished checkpoint of a run, or of a checkpoint itself; None if there is none."""
    if checkpoint.is_finished(run_uri):
        return run_uri
    uris = (checkpoint.uri_of(run_uri, step) for step in checkpoint.steps_there(run_uri))
    return next((uri for uri in uris if checkpoint.is_finished(uri)), None)


def read_config(checkpoint_uri: str) -> RunConfig:
    """The settings a checkpoint was trained with."""
    return read_back(Checkpoint(checkpoint_uri).read("config.json"), f"{checkpoint_uri}/config.json")


def weights_crc32(checkpoint_uri: str) -> int:
    """What tells the weights of a checkpoint from those of another, which may have its name and steps."""
    return Checkpoint(checkpoint_uri).crc32(WEIGHTS)


def read_weights(checkpoint_uri: str) -> dict[str, Any]:
    """The whole model of a checkpoint."""
    return read_safetensors(Checkpoint(checkpoint_uri).read(WEIGHTS), f"{checkpoint_uri}/{WEIGHTS}")
