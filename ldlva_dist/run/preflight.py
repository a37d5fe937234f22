"""What must hold before a run starts: launch.py stops at the first check that fails, jobs/plan.py lists them all."""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ldlva_dist import storage
from ldlva_dist.checkpoint.checkpoint import CONFIG
from ldlva_dist.checkpoint.resume import require_fitting
from ldlva_dist.checkpoint.saved_files import SavedFiles, checkpoint_uris
from ldlva_dist.config import RunConfig, read_back, to_json
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.errors import DataError, LdlvaError, SettingError
from ldlva_dist.index.graph import require_graph
from ldlva_dist.packing.verify import require_sound
from ldlva_dist.records.trackers import require_tracker
from ldlva_dist.runtime import placement
from ldlva_dist.stream.plan import PLAN_VERSION
from ldlva_dist.training import build
from ldlva_dist.training.inputs import make_plan
from ldlva_dist.training.neighbors.feature_graphs import plan_rebuilds
from ldlva_dist.training.network import say_pretrained, say_start
from ldlva_dist.values.typed_json import parse_object

CHANGEABLE = (
    "placement.",
    "sweep.",
    "bank.place",
    "bank.num_shards",
    "data.on_bad_data",
    "data.max_bad_share",
    "training.checkpoint_every_",
    "training.num_to_keep",
    "training.stop_grace_s",
    "training.timeout_s",
    "training.tracker",
)
"""Settings that may change when a run resumes."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must hold."""

    require: Callable[[], Any]
    """Raises an error of ours where it does not."""
    cure: str
    """Thing that the user can do about it."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A check that failed."""

    sentence: str
    cure: str
    exit_code: int
    """Exit code of a job that stops here."""


def checks(config: RunConfig, dataset: Dataset, *, sound: bool = False) -> tuple[Check, ...]:
    """All of them, in the order in which a run makes them; nothing is written.

    The last one reads the whole manifest, and is left out where the data set is known to be ``sound``.
    """
    info, k = dataset.info, config.neighbors.num_neighbors
    graph = Check(
        require=partial(require_graph, dataset, k=k),
        cure=f"python jobs/build_index.py --dataset {dataset.uri} --k-max {k}",
    )
    fits = partial(placement.check_fits, config.placement, config.bank_shards, config.index_shards)
    return (
        Check(
            require=partial(build.check_against_dataset, config, info),
            cure="choose settings that fit the data set; jobs/annotate_va.py adds valence-arousal, and "
            "--index.space feature does without",
        ),
        Check(
            require=partial(say_pretrained, config),
            cure="--model.pretrained: a .pth or .safetensors file of the same --model.name and --model.width",
        ),
        Check(
            require=partial(say_start, config, info),
            cure="--training.start-from: a run on this data set, or on what it was before rows were added",
        ),
        Check(
            require=partial(require_tracker, config.training.tracker),
            cure=f"pip install '.[{config.training.tracker}]', or --training.tracker none",
        ),
        Check(
            require=partial(require_fitting, config.uri, info, PLAN_VERSION),
            cure="resume with the data set the run began with, or choose another --name",
        ),
        *([graph] if config.uses_neighbors and info.has_valence_arousal else []),
        Check(
            require=partial(_require_batches, config, info),
            cure="--data.batch-size: a multiple of the number of workers, below the training split's rows; "
            "--data.max-lanes: the number of workers or a multiple of it, where there are more than 64",
        ),
        Check(
            require=fits,
            cure="fewer --placement.num-workers, fewer CPUs for each (--placement.cpus-per-worker, "
            "--placement.data-cpus-per-worker), --placement.no-use-gpu where there are none, or a larger cluster",
        ),
        Check(
            require=partial(_require_rebuilds, config, info),
            cure="--index.rebuild-every-epochs: at least some steps, and fewer epochs than the run has",
        ),
        Check(
            require=partial(storage.check_writable, config.storage_path),
            cure="another --storage-path, or python jobs/doctor.py --storage PATH, which says what is wrong with it",
        ),
        Check(require=partial(require_same_settings, config), cure="another --name, or remove the run"),
        *([] if sound else [_data_check(config, dataset)]),
    )


def _data_check(config: RunConfig, dataset: Dataset) -> Check:
    """An error of the data that a worker would meet is said before there is one."""
    return Check(
        require=partial(
            require_sound,
            dataset,
            k=config.neighbors.num_neighbors if config.uses_neighbors and dataset.info.has_valence_arousal else 0,
            quarantine=config.data.on_bad_data != "fail",
        ),
        cure=f"pack the data set again, or python jobs/build_index.py --dataset {dataset.uri} where it is the graph; "
        f"python jobs/make_shards.py verify {dataset.uri} says all that is wrong",
    )


def find_problems(checks: Iterable[Check]) -> list[Problem]:
    """What does not hold; each sentence once."""
    found: dict[str, Problem] = {}
    for check in checks:
        try:
            check.require()
        except LdlvaError as error:
            found.setdefault(str(error), Problem(sentence=str(error), cure=check.cure, exit_code=error.exit_code))
    return list(found.values())


def settings_of(run_uri: str) -> bytes | None:
    """The settings that a run was started with: its config.json or, where that is lost, its newest checkpoint's."""
    uri = storage.join(run_uri, CONFIG)
    if storage.exists(uri):
        return storage.read_bytes(uri)
    for saved_uri in checkpoint_uris(run_uri):
        with suppress(DataError):  # unfinished or damaged: the workers say so, and look at the one before too
            return SavedFiles.open(saved_uri).read(CONFIG)
    return None


def as_begun(config: RunConfig) -> RunConfig:
    """The same settings; a run that began before ``data.resize`` could be chosen goes on with the one there was."""
    text = settings_of(config.uri)
    if text is None or "resize" in parse_object(text, storage.join(config.uri, CONFIG)).get("data", {}):
        return config
    return replace(config, data=replace(config.data, resize="reference"))


def require_same_settings(config: RunConfig) -> None:
    """SettingError where a run of this name was started with other settings."""
    text, uri = settings_of(config.uri), storage.join(config.uri, CONFIG)
    if text is None:
        return
    # Read back as settings, so that a run of a version without some setting has its default.
    there, here = (flat(json.loads(to_json(c))) for c in (read_back(text, uri), config))
    free = [name for name in here if here[name] != there[name] and not name.startswith(CHANGEABLE)]
    if free:
        raise SettingError(
            f"name must be new for other settings: run {config.name!r} in {config.storage_path} was started with "
            f"another {', '.join(free)}; choose another --name, or remove the run"
        )


def _require_batches(config: RunConfig, info: DatasetInfo) -> None:
    plan = make_plan(config, tuple(shard.rows for shard in info.shards_of("train")))
    workers = config.placement.max_workers
    smallest = len(plan.positions(workers - 1, workers))
    if smallest < config.training.gradient_accumulation_steps:
        raise SettingError(
            f"data.batch_size={config.data.batch_size} and data.max_lanes={config.data.max_lanes} give "
            f"{plan.num_lanes} lanes (the largest divisor of the one up to the other), "
            f"too few for placement.num_workers={workers} with "
            f"training.gradient_accumulation_steps={config.training.gradient_accumulation_steps}"
        )


def _require_rebuilds(config: RunConfig, info: DatasetInfo) -> None:
    if config.index_shards:
        plan = make_plan(config, tuple(shard.rows for shard in info.shards_of("train")))
        plan_rebuilds(plan, config.training.epochs, config.index.rebuild_every_epochs)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their full names, such as ``loss.gamma``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
