"""Predict images: python jobs/predict.py {dataset,folder,parquet} --model RUN --output OUTPUT ...

OUTPUT/predictions/*.parquet has a row for each image: key, class, entropy (nats), p_CLASS for each class. Images that
cannot be read are listed in OUTPUT/rejected.parquet. The same command resumes where an interrupted one stopped.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, subcommand

from ldlva_dist.inference.actors import Actors
from ldlva_dist.records.console import say
from ldlva_dist.reporting.progress_bar import ProgressBar
from ldlva_dist.reporting.terminal import print_lines
from ldlva_dist.values.settings import BatchSize, Share, check_options

if TYPE_CHECKING:
    from ldlva_dist.inference.inputs import Inputs


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """What every kind of images needs."""

    model: str
    """A run (its last checkpoint), one checkpoint, or a folder that jobs/export.py wrote; local or s3://."""
    output: str
    """Folder or s3:// prefix to write."""
    features: bool = False
    """Write the network's feature of each image too."""
    batch_size: BatchSize = 64
    """Images in one call of the network."""
    max_rejected: Share = 0.01
    """Share of the images that may be unreadable."""
    actors: OmitArgPrefixes[Actors] = field(default_factory=Actors)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class FromDataset(PredictionOptions):
    """A data set that jobs/make_shards.py wrote, or a version of one; labels are not read."""

    dataset: str
    split: Literal["train", "holdout", "test", "all"] = "all"


@dataclass(frozen=True, kw_only=True)
class FromFolder(PredictionOptions):
    """Image files in a folder and below."""

    images: str
    """Folder or s3:// prefix."""


@dataclass(frozen=True, kw_only=True)
class FromParquet(PredictionOptions):
    """A column of encoded images in a parquet file, or in all of a folder."""

    parquet: str
    image_column: str | None = None
    """The only column that can hold images if not given."""
    key_column: str | None = None
    """Column of names; FILE:ROW if not given."""


Command = (
    Annotated[FromDataset, subcommand("dataset")]
    | Annotated[FromFolder, subcommand("folder")]
    | Annotated[FromParquet, subcommand("parquet")]
)


def run_predict() -> None:
    """Parse, connect, predict, print."""
    command = tyro.cli(Command, description=__doc__)

    from ldlva_dist import storage
    from ldlva_dist.inference.batch import predict_images
    from ldlva_dist.inference.inputs import FolderInputs
    from ldlva_dist.inference.parts import PredictionWork
    from ldlva_dist.inference.trained import read_model
    from ldlva_dist.packing.sources.listing import list_images
    from ldlva_dist.runtime import placement

    output = storage.absolute(command.output)
    model = read_model(command.model)
    work = PredictionWork(
        output=output, inputs=inputs_of(command), batch_size=command.batch_size, features=command.features
    )
    storage.check_writable(output)
    placement.connect()
    with ProgressBar() as progress:
        found = predict_images(
            model,
            work,
            command.actors,
            max_rejected=command.max_rejected,
            progress=lambda done, total: progress("predicting", done, total),
        )
    if isinstance(work.inputs, FolderInputs):
        print_lines(list_images(work.inputs.folder).passed_over())
    say(f"predicted {found.rows - found.rejected} of {found.rows} images; rejected: {found.rejected}")
    say(f"written: {output}")


def inputs_of(command: Command) -> "Inputs":
    """The images that are meant."""
    from ldlva_dist import storage
    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.inference.inputs import DatasetInputs, FolderInputs, ParquetInputs
    from ldlva_dist.packing.sources.listing import list_images
    from ldlva_dist.packing.sources.readers.row_groups import parquet_files
    from ldlva_dist.packing.verify import require_sound

    if isinstance(command, FromDataset):
        dataset = Dataset.open(storage.absolute(command.dataset))
        require_sound(dataset)
        return DatasetInputs(dataset=dataset, split=None if command.split == "all" else command.split)
    if isinstance(command, FromParquet):
        files = parquet_files(storage.absolute(command.parquet))
        return ParquetInputs(files=files, image_column=command.image_column, key_column=command.key_column)
    folder = storage.absolute(command.images)
    return FolderInputs(folder=folder, paths=list_images(folder).paths)
