"""Settings for a data set that nobody has tuned any for: a preset by the size of the data and the machine."""

from dataclasses import dataclass, replace

from ldlva_dist.config import PlacementConfig, RunConfig
from ldlva_dist.config.presets import demo, ferplus, rafdb_resnet18

SMALL_ROWS = 8000
"""Below it, batches of 32 and 32 neighbours, as the demo has them."""
FEWEST_ROWS = 8
SAMPLES, GPU_SAMPLES = 60_000, 400_000
"""Samples that a network trained from nothing should see at least, where the epochs stay within their range."""
EPOCHS = (10.0, 40.0)
WARMUP = 1 / 6
"""Share of the epochs on the given labels alone, as in the presets."""
CPU_PIXELS, GPU_PIXELS, LARGE_PIXELS = 48, 112, 224
REBUILDS = 10
"""Times that neighbours in feature space are found anew."""
FEWEST_STEPS, FIRST_NEIGHBORS = 5, 1.5
"""Steps between two times; intervals before the first neighbours take effect (training/neighbors/feature_graphs.py)."""
MANY_ROWS = 100_000
"""From here on they are searched for approximately, on a CPU."""
LARGEST_GROUP = 8
"""Training workers without GPUs; more CPUs become threads."""


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """What a data set says of the network that suits it."""

    rows: int
    """Training samples."""
    pixels: int
    """Smaller side of a typical image."""
    is_grey: bool
    has_valence_arousal: bool


@dataclass(frozen=True, kw_only=True)
class MachineSize:
    """What a cluster has in all."""

    cpus: float
    gpus: int


def choose_settings(data: DataSize, machine: MachineSize, *, epochs: float | None = None) -> RunConfig:
    """A preset, fitted: images, epochs, batch, neighbours' space and workers.

    Args:
        data: The data set's size.
        machine: The cluster's.
        epochs: Passes over the data; None takes more for fewer rows.

    Returns:
        Settings named for the preset that they come from; data set and folder are still to be named.
    """
    config = _on_gpus(data, machine) if machine.gpus else _on_cpus(data, machine)
    samples = GPU_SAMPLES if machine.gpus else SAMPLES
    epochs = epochs or float(round(min(max(samples / data.rows, EPOCHS[0]), EPOCHS[1])))
    batch = max(1, min(config.data.batch_size, data.rows // FEWEST_ROWS))
    workers = min(config.placement.max_workers, batch)
    return _with_neighbors(
        replace(
            config,
            data=replace(config.data, batch_size=batch, channels=1 if data.is_grey else 3),
            loss=replace(config.loss, warmup_epochs=WARMUP * epochs),
            bank=replace(config.bank, num_shards=1),
            training=replace(config.training, epochs=epochs, evaluate_every_epochs=epochs / 5),
            placement=replace(config.placement, num_workers=workers),
        ),
        data,
    )


def _on_cpus(data: DataSize, machine: MachineSize) -> RunConfig:
    base = demo() if data.rows < SMALL_ROWS else ferplus()
    workers = max(1, min(LARGEST_GROUP, int(machine.cpus)))
    each = machine.cpus / workers
    # A worker, its pipeline, and a little for the index: as the laptop's presets share two cores.
    place = replace(base.placement, num_workers=workers, cpus_per_worker=0.5 * each, data_cpus_per_worker=0.45 * each)
    return replace(
        base,
        data=replace(base.data, image_size=_side(data, CPU_PIXELS)),
        index=replace(base.index, min_recall=0.95 if data.rows >= MANY_ROWS else 1.0),
        placement=replace(place, cpus_per_index=0.05 * each),
    )


def _on_gpus(data: DataSize, machine: MachineSize) -> RunConfig:
    base, workers = rafdb_resnet18(), machine.gpus
    side = _side(data, LARGE_PIXELS if data.pixels > GPU_PIXELS * 3 // 2 else GPU_PIXELS)
    place = PlacementConfig(
        num_workers=workers, use_gpu=True, cpus_per_worker=max(0.5, min(4.0, machine.cpus / workers / 4))
    )
    return replace(
        base,
        data=replace(base.data, image_size=side, resize="antialias", batch_size=32 * workers, pad=side // 16),
        model=replace(base.model, stem="imagenet" if side > 2 * CPU_PIXELS else "small"),
        optim=replace(base.optim, name="adamw", lr=1e-3, weight_decay=1e-2, schedule="cosine", warmup_epochs=0.5),
        training=replace(base.training, precision="bf16", zero_stage=0),
        placement=replace(place, cpus_per_shard=0.5),
    )


def _side(data: DataSize, most: int) -> int:
    return max(16, min(most, data.pixels))


def _with_neighbors(config: RunConfig, data: DataSize) -> RunConfig:
    k = max(1, min(config.neighbors.num_neighbors, data.rows - 1))
    config = replace(config, neighbors=replace(config.neighbors, num_neighbors=k))
    if data.has_valence_arousal:
        return config
    epochs, steps = config.training.epochs, data.rows / config.data.batch_size
    every = max(epochs / REBUILDS, FEWEST_STEPS / steps)
    return replace(
        config,
        index=replace(config.index, space="feature", rebuild_every_epochs=every),
        loss=replace(config.loss, warmup_epochs=max(config.loss.warmup_epochs, FIRST_NEIGHBORS * every)),
    )
