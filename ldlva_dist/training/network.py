"""The network of a run, from its settings or from a checkpoint."""

import os

import torch

from ldlva_dist import storage
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.saved_files import newest_finished
from ldlva_dist.config import RunConfig
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.models.backbone import build_backbone, feature_width, freeze_batchnorm, load_weights
from ldlva_dist.models.ldlva import LDLVA
from ldlva_dist.models.weights_file import require_weights_of
from ldlva_dist.records.console import say


def build_model(config: RunConfig, num_classes: int, *, pretrained: bool = True) -> LDLVA:
    """The network with its initial weights, the same on every rank."""
    torch.manual_seed(config.training.seed)
    backbone = backbone_of(config)
    if pretrained and config.model.pretrained:
        load_weights(backbone, _read_pretrained(config.model.pretrained), config.model.pretrained)
    hidden = config.model.calibration_hidden if config.loss.calibration else None
    ldlva = LDLVA(
        backbone,
        num_classes,
        recipe=config.loss.recipe,
        calibration_hidden=hidden,
        noise_rate=config.posterior.noise_rate,
    )
    if config.model.freeze_batchnorm:
        freeze_batchnorm(ldlva)
    return ldlva


def say_pretrained(config: RunConfig) -> None:
    """Say what a run that begins will load of ``model.pretrained``; one that resumes has its checkpoint's weights.

    Raises:
        SettingError: where there is no such file, it holds anything but tensors, or too little of it fits.
    """
    uri = None if config.training.start_from else config.model.pretrained
    if uri and newest_finished(config.uri) is None:
        with torch.device("meta"):
            backbone = backbone_of(config)
        say(str(load_weights(backbone, _read_pretrained(uri), uri)))


def say_start(config: RunConfig, info: DatasetInfo) -> None:
    """Say what a run that begins will take over by ``training.start_from``; one that resumes has its own checkpoint.

    Raises:
        SettingError: where there is no such checkpoint, or it knows other rows or classes.
        DataError: where its network is another, or it is damaged.
    """
    uri = config.training.start_from
    if not uri or newest_finished(config.uri) is not None:
        return
    start = Checkpoint.newest(uri)
    if start is None:
        raise SettingError(f"training.start_from must be a run with a finished checkpoint, got {uri}")
    known = start.known_rows(info)
    with torch.device("meta"):
        model = build_model(config, len(info.class_names), pretrained=False)
        require_weights_of(model, start.read_weights(), start.uri)
    say(f"begins with {start.uri}, which knows {known:,} of the {info.num_train:,} training samples")


def backbone_of(config: RunConfig) -> torch.nn.Module:
    """The backbone that the settings name, with random weights."""
    model = config.model
    return build_backbone(model.name, width=model.width, channels=config.data.channels, stem=model.stem)


def feature_width_of(config: RunConfig) -> int:
    """V of that backbone; SettingError where the settings name none."""
    model = config.model
    return feature_width(model.name, width=model.width, channels=config.data.channels, stem=model.stem)


def _read_pretrained(uri: str) -> bytes:
    if not storage.is_remote(uri) and not os.path.isfile(storage.resolve(uri)[1]):  # a pipe would be waited for
        raise SettingError(f"model.pretrained must be a file, got {uri!r}")
    try:
        return storage.read_bytes(uri)
    except DataError as error:
        raise SettingError(f"model.pretrained must be a file: {error}") from error


def restored_model(config: RunConfig, num_classes: int, checkpoint: Checkpoint) -> LDLVA:
    """The network with a checkpoint's weights; those of another one are a DataError before memory is taken."""
    weights = checkpoint.read_weights()
    with torch.device("meta"):
        require_weights_of(build_model(config, num_classes, pretrained=False), weights, checkpoint.uri)
    model = build_model(config, num_classes, pretrained=False)
    model.load_state_dict(weights)
    return model
