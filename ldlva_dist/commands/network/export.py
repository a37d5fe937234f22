"""Take a trained network away: python jobs/export.py --run RUN --output FOLDER [--onnx] [--pt2].

FOLDER gets model.safetensors, model.json (architecture, classes, preprocessing, data version, figures) and MODEL.md
(the same for people, and how to use it). Evaluate the run first: what jobs/evaluate.py wrote goes into both.
model.onnx and model.pt2 take pixels, not files: turn photographs upright by their EXIF tag first, as MODEL.md shows.
"""

from dataclasses import dataclass

import tyro

from ldlva_dist.errors import SettingError
from ldlva_dist.records.console import say


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """What is taken, and in which forms."""

    run: str
    """A run (its last checkpoint) or one checkpoint, local or s3://; or an exported folder, to add graphs."""
    output: str
    """Folder or s3:// prefix to write; must not exist."""
    onnx: bool = False
    """Write model.onnx too, checked against torch; needs the extra [onnx]."""
    pt2: bool = False
    """Write model.pt2 too, which torch.export.load reads, checked against torch."""
    dataset: str | None = None
    """Data set whose images the graphs are checked on; the one trained on if not given."""


def run_export() -> None:
    """Read, check, write, print."""
    arguments = tyro.cli(ExportArguments, description=__doc__)

    from ldlva_dist import storage
    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.inference.export import export, real_images
    from ldlva_dist.inference.trained import read_model

    model = read_model(arguments.run)
    graphs = [name for name in ("onnx", "pt2") if getattr(arguments, name)]
    images = real_images(Dataset.open(dataset_of(arguments)), model.description.channels) if graphs else []
    storage.check_writable(arguments.output)
    files = export(model, arguments.output, graphs, images)
    facts = model.description
    say(f"{facts.name}: {facts.backbone}, {len(facts.class_names)} classes, {facts.image_size} px")
    if "evaluation" not in facts.figures:
        say("MODEL.md has no figures of a test split: this checkpoint was not evaluated (jobs/evaluate.py)")
    say(f"written: {', '.join(storage.join(arguments.output, name) for name in files)}")


def dataset_of(arguments: ExportArguments) -> str:
    """The data set whose images the graphs are checked on."""
    from ldlva_dist.checkpoint.checkpoint import Checkpoint
    from ldlva_dist.inference.face_model import is_exported

    if arguments.dataset is not None:
        return arguments.dataset
    if is_exported(arguments.run):
        raise SettingError("--dataset must name a data set whose images the graphs are checked on, got none")
    checkpoint = Checkpoint.newest(arguments.run)
    assert checkpoint is not None, "its network was read"
    return checkpoint.config.data.dataset
