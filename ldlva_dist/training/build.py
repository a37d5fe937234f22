"""From settings to a state: model, optimiser, engine, table, bank; restored where there is a checkpoint."""

import os
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist

from ldlva_dist import storage
from ldlva_dist.bank.records import BankSpec
from ldlva_dist.checkpoint.read import last_checkpoint, read_weights
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.method.losses import balanced_class_weights
from ldlva_dist.method.step import StepSettings
from ldlva_dist.method.uncertainty_table import UncertaintyTable
from ldlva_dist.models.backbone import build_backbone, freeze_batchnorm, load_weights
from ldlva_dist.models.ldlva import LDLVA
from ldlva_dist.models.weights_file import require_weights_of
from ldlva_dist.records.console import say
from ldlva_dist.stream.class_balance import class_quotas
from ldlva_dist.training.engine import Engine, EngineSettings, build_optimizer
from ldlva_dist.training.state import BankSnapshots, TrainState


def build_model(config: RunConfig, num_classes: int, *, pretrained: bool = True) -> LDLVA:
    """The network with its initial weights, the same on every rank."""
    torch.manual_seed(config.training.seed)
    backbone = _backbone(config)
    if pretrained and config.model.pretrained:
        load_weights(backbone, _read_pretrained(config.model.pretrained), config.model.pretrained)
    hidden = config.model.calibration_hidden if config.loss.calibration else None
    ldlva = LDLVA(backbone, num_classes, recipe=config.loss.recipe, calibration_hidden=hidden)
    if config.model.freeze_batchnorm:
        freeze_batchnorm(ldlva)
    return ldlva


def say_pretrained(config: RunConfig, run_uri: str) -> None:
    """Say what a run that begins will load of ``model.pretrained``; one that goes on has its checkpoint's weights.

    Raises:
        SettingError: where there is no such file, it holds anything but tensors, or too little of it fits.
    """
    uri = config.model.pretrained
    if uri and last_checkpoint(run_uri) is None:
        with torch.device("meta"):
            backbone = _backbone(config)
        say(str(load_weights(backbone, _read_pretrained(uri), uri)))


def _backbone(config: RunConfig) -> torch.nn.Module:
    model = config.model
    return build_backbone(model.name, width=model.width, channels=config.data.channels, stem=model.stem)


def _read_pretrained(uri: str) -> bytes:
    if not storage.is_remote(uri) and not os.path.isfile(storage.resolve(uri)[1]):  # a pipe would be waited for
        raise SettingError(f"model.pretrained must be a file, got {uri!r}")
    try:
        return storage.read_bytes(uri)
    except DataError as error:
        raise SettingError(f"model.pretrained must be a file: {error}") from error


def restored_model(config: RunConfig, num_classes: int, checkpoint_uri: str) -> LDLVA:
    """The network with a checkpoint's weights; those of another one are a DataError before memory is taken."""
    weights = read_weights(checkpoint_uri)
    with torch.device("meta"):
        require_weights_of(build_model(config, num_classes, pretrained=False), weights, checkpoint_uri)
    model = build_model(config, num_classes, pretrained=False)
    model.load_state_dict(weights)
    return model


def build_state(
    config: RunConfig,
    info: DatasetInfo,
    bank: BankSnapshots | None,
    *,
    device: torch.device,
    checkpoint_uri: str | None,
) -> TrainState:
    """The state of a run, from a checkpoint or from the beginning. Collective."""
    num_classes = len(info.class_names)
    model = restored_model(config, num_classes, checkpoint_uri) if checkpoint_uri else build_model(config, num_classes)
    model.to(device)
    optim, training = config.optim, config.training
    optimizer = build_optimizer(
        model, optim.name, lr=optim.lr, weight_decay=optim.weight_decay, momentum=optim.momentum
    )
    settings = EngineSettings(
        # A single rank has nothing to share out, and the flat copies of ZeRO cost it time; checkpoints are the same.
        zero_stage=training.zero_stage if dist.get_world_size() > 1 else 0,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        micro_batch_size=max(
            1, config.data.batch_size // dist.get_world_size() // training.gradient_accumulation_steps
        ),
        gradient_clipping=optim.gradient_clipping,
        bf16=training.precision == "bf16",
        use_gpu=device.type == "cuda",
    )
    table = _build_table(config, info) if config.uses_neighbors else None
    state = TrainState(config=config, info=info, engine=Engine(model, optimizer, settings), table=table, bank=bank)
    state.restore(checkpoint_uri)
    state.engine.train()
    return state


def _build_table(config: RunConfig, info: DatasetInfo) -> UncertaintyTable:
    group = _gloo_group(config.training.timeout_s) if dist.get_world_size() > 1 else None
    uncertainty = config.uncertainty
    return UncertaintyTable(
        info.num_train,
        initial_logit=uncertainty.initial_logit,
        lr=uncertainty.lr,
        momentum=uncertainty.momentum,
        group=group,
    )


def _gloo_group(timeout_s: float) -> dist.ProcessGroup:
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s)))


def bank_spec(config: RunConfig, info: DatasetInfo) -> BankSpec:
    """What the run's bank stores. Labels that a bank starts with are smoothed as those of the loss, or by 0.1."""
    num_classes, exact = len(info.class_names), config.neighbors.source == "exact"
    with torch.device("meta"):
        feature_width = int(_backbone(config).feature_width)  # pyright: ignore[reportArgumentType]
    return BankSpec(
        num_classes=num_classes,
        # The exact source reads nothing back; its probabilities are kept for the reports.
        feature_width=0 if exact else feature_width,
        probs_dtype=config.bank.probs_dtype,
        features_dtype=config.bank.features_dtype,
        momentum=config.bank.momentum,
        label_smoothing=(config.loss.label_smoothing or 0.1) if config.bank.warm_start == "labels" else None,
        timeout_s=config.neighbors.timeout_s,
    )


def step_settings(config: RunConfig, info: DatasetInfo, device: torch.device) -> StepSettings:
    """What the maths of a step needs to know."""
    loss = config.loss
    weights = None
    if loss.class_weights == "balanced":
        counts = class_quotas(info.class_counts["train"], config.data.balance)  # of an epoch as it is streamed
        weights = balanced_class_weights(torch.tensor(counts)).float().to(device)
    return StepSettings(
        recipe=loss.recipe,
        num_classes=len(info.class_names),
        gamma=loss.gamma,
        kernel_width=loss.kernel_width,
        reference_k=loss.reference_k,
        label_smoothing=loss.label_smoothing,
        detach_uncertainty=loss.detach_uncertainty,
        class_weights=weights,
    )


def check(config: RunConfig, info: DatasetInfo) -> None:
    """SettingError for settings that do not fit the data set, or name a model that does not exist."""
    with torch.device("meta"):
        _backbone(config)
    if not config.uses_neighbors:
        return
    if config.neighbors.source == "exact" and config.bank.warm_start != "empty":
        raise SettingError(
            "bank.warm_start must be empty for neighbors.source=exact, which reads no stored outputs, "
            f"got {config.bank.warm_start}"
        )
    k, rows = config.neighbors.num_neighbors, info.num_train
    if k >= rows:
        raise SettingError(f"neighbors.num_neighbors must be < the number of training samples ({rows}), got {k}")
    if not info.has_valence_arousal:
        raise SettingError(
            f"loss.recipe={config.loss.recipe!r} needs valence-arousal, which data set {info.name!r} does not have; "
            "use loss.recipe=ce, or add valence-arousal (jobs/annotate_va.py)"
        )
