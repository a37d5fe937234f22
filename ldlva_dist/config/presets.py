"""Named runs: each is a function that returns its settings. The data set comes from the command line.

The small networks have nothing to shard: under ZeRO-1 DeepSpeed would reduce and gather seven times a step, not once.
"""

from dataclasses import replace

from ldlva_dist.config import (
    BankConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    NeighborConfig,
    OptimConfig,
    PlacementConfig,
    RunConfig,
    SweepConfig,
    TrainingConfig,
    UncertaintyConfig,
)


def demo() -> RunConfig:
    """Drawn faces on a laptop: two workers, a network of 0.2 M parameters, a minute a run."""
    return RunConfig(
        name="demo",
        data=DataConfig(
            dataset="datasets/demo", batch_size=32, image_size=48, channels=1, pad=1, erase_probability=0.0
        ),
        model=ModelConfig(name="resnet10", width=12, stem="small", calibration_hidden=(64, 32)),
        loss=LossConfig(recipe="official", warmup_epochs=2.0),
        neighbors=NeighborConfig(num_neighbors=32),
        bank=BankConfig(num_shards=2),
        uncertainty=UncertaintyConfig(lr=1.0),
        optim=OptimConfig(name="adamw", lr=5e-3, weight_decay=1e-2, schedule="cosine", warmup_epochs=0.5),
        training=TrainingConfig(epochs=12.0, evaluate_every_epochs=3.0, zero_stage=0),
        placement=_laptop(),
        sweep=SweepConfig(
            num_samples=3, num_neighbors=(8, 16, 32), lr=(2e-3, 8e-3), uncertainty_lr=(0.5, 1.5), grace_epochs=3.0
        ),
    )


def ferplus() -> RunConfig:
    """FER+ faces (48 px, grey) with their original labels, of which about 37 % disagree with the vote majority."""
    return RunConfig(
        name="ferplus",
        data=DataConfig(batch_size=128, image_size=48, channels=1, pad=4, erase_probability=0.0),
        model=ModelConfig(name="resnet10", width=16, stem="small", calibration_hidden=(128, 64)),
        loss=LossConfig(recipe="official", gamma=1e-3, warmup_epochs=2.0),
        neighbors=NeighborConfig(num_neighbors=8),
        optim=OptimConfig(name="adamw", lr=3e-3, weight_decay=1e-2, schedule="cosine", warmup_epochs=0.5),
        training=TrainingConfig(epochs=10.0, precision="bf16", evaluate_every_epochs=2.0, zero_stage=0),
        placement=_laptop(),
        sweep=SweepConfig(num_samples=4, num_neighbors=(8, 16, 32), lr=(1e-3, 6e-3), grace_epochs=4.0),
    )


def rafdb_resnet18() -> RunConfig:
    """RAF-DB as the reference trains it: ResNet-18 at 224 px."""
    base = _reference()
    return replace(
        base,
        name="rafdb_resnet18",
        data=replace(base.data, image_size=224, pad=8),
        optim=replace(base.optim, lr=1e-3, decay_epochs=(10.0, 20.0, 40.0), decay_factor=0.1),
    )


def rafdb_resnet50() -> RunConfig:
    """RAF-DB as the reference trains it: ResNet-50 at 112 px."""
    base = _reference()
    return replace(
        base,
        name="rafdb_resnet50",
        model=replace(base.model, name="resnet50"),
        optim=replace(base.optim, lr=1e-4, decay_epochs=(10.0, 30.0), decay_factor=0.1),
    )


def affectnet_resnet18() -> RunConfig:
    """AffectNet as the reference trains it: ResNet-18 at 224 px, balanced class weights."""
    base = _reference()
    return replace(
        base,
        name="affectnet_resnet18",
        data=replace(base.data, image_size=224, pad=8),
        loss=replace(base.loss, class_weights="balanced"),
        uncertainty=UncertaintyConfig(initial_logit=-0.8, momentum=0.9),
        optim=replace(base.optim, lr=3e-4, decay_epochs=(5.0, 10.0, 20.0), decay_factor=0.2),
    )


PRESETS = {run.__name__: run for run in (demo, ferplus, rafdb_resnet18, rafdb_resnet50, affectnet_resnet18)}


def _reference() -> RunConfig:
    """What the reference's presets share (METHOD.md, section 4)."""
    return RunConfig(
        data=DataConfig(batch_size=32, image_size=112, resize="reference", pad=4, erase_probability=0.5),
        loss=LossConfig(recipe="official", gamma=0.01),
        neighbors=NeighborConfig(num_neighbors=8),
        uncertainty=UncertaintyConfig(initial_logit=-0.5, lr=0.3125),
        optim=OptimConfig(name="adam", schedule="step"),
        training=TrainingConfig(epochs=60.0),
        placement=PlacementConfig(num_workers=1, use_gpu=True, cpus_per_worker=4.0, data_cpus_per_worker=8.0),
    )


def _laptop() -> PlacementConfig:
    """Two workers on two cores; their pipelines, and a trial, share them."""
    return PlacementConfig(num_workers=2, cpus_per_worker=0.5, data_cpus_per_worker=0.45)
