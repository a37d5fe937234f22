"""Give a data set valence-arousal: python jobs/annotate_va.py {model,table} --dataset DATASET --name NAME ...

Writes DATASET/versions/NAME: a manifest of its own over the shards of DATASET, no image is written again. A version is
used wherever a data set is; what comes next is: python jobs/build_index.py --dataset DATASET/versions/NAME
"""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import OmitArgPrefixes, subcommand

from ldlva_dist.packing.annotate.settings import RegressorSettings
from ldlva_dist.records.console import say
from ldlva_dist.reporting.metrics_line import format_seconds
from ldlva_dist.values.settings import BatchSize, Count, NotNegative, Positive, check_options

if TYPE_CHECKING:
    from ldlva_dist.dataset.dataset import Dataset

LINE_EVERY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class AnnotationOptions:
    """What both ways need."""

    dataset: str
    """Folder or s3:// prefix that jobs/make_shards.py wrote, or a version in it."""
    name: str
    """Name of the new version."""
    clip: bool = False
    """Cut values outside [-1, 1] instead of stopping at them; -2 in a table says that there is none."""
    standardize_va: bool = False
    """Measure distances on valence-arousal of mean 0 and standard deviation 1 over the training rows."""


@dataclass(frozen=True, kw_only=True)
class AnnotateByModel(AnnotationOptions):
    """Valence-arousal of every row of all splits, by a regressor of your own. An interrupted job resumes where it was.

    A TorchScript file is a program: it is run with your rights on every node, so use files that you trust.
    """

    model: str
    """ONNX (.onnx; needs the extra [onnx]) or TorchScript file, local or s3://; weights of an ONNX file that lie in
    another one are read from the same folder."""
    regressor: OmitArgPrefixes[RegressorSettings] = field(default_factory=RegressorSettings)
    batch_size: BatchSize = 32
    """Images in one call of the model; always as many, a last batch is filled up."""
    num_actors: Count = 1
    """Copies of the model that work side by side."""
    cpus_per_actor: Positive = 1.0
    gpus_per_actor: NotNegative = 0.0
    """A share, such as 0.25, lets several actors use one GPU."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class AnnotateByTable(AnnotationOptions):
    """Valence-arousal from a CSV; every training row needs one, rows of other splits may go without.

    A cell of the key column is a key of the manifest, or a path that make_shards makes that key from.
    """

    table: str
    """CSV, local or s3://."""
    key_column: str = "key"
    valence_column: str = "valence"
    arousal_column: str = "arousal"
    delimiter: str | None = None
    """Character between the cells of the CSV; taken from its header if not given."""


Command = Annotated[AnnotateByModel, subcommand("model")] | Annotated[AnnotateByTable, subcommand("table")]


def run_annotate_va() -> None:
    """Parse, connect, annotate, print."""
    command = tyro.cli(Command, description=__doc__)

    from ldlva_dist import storage
    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.dataset.versions import check_free, version_uri
    from ldlva_dist.reporting.dataset_table import print_dataset

    dataset = Dataset.open(storage.absolute(command.dataset))
    check_free(version_uri(dataset, command.name))
    made = by_model(command, dataset) if isinstance(command, AnnotateByModel) else by_table(command, dataset)
    print_dataset(made.info, made.uri, reasons={})
    say(f"written: {made.uri}")


def by_model(command: AnnotateByModel, dataset: "Dataset") -> "Dataset":
    """The version that a regressor makes."""
    from ldlva_dist.packing.annotate.annotate import Pool, annotate_by_model
    from ldlva_dist.packing.annotate.model_files import read_regressor_model
    from ldlva_dist.packing.annotate.pieces import AnnotationWork
    from ldlva_dist.runtime import placement

    work = AnnotationWork(
        dataset=dataset,
        parts_uri=AnnotationWork.parts_of(dataset, command.name),
        model_name=command.model.rpartition("/")[2],
        settings=command.regressor,
        batch_size=command.batch_size,
        clip=command.clip,
    )
    pool = Pool(num_actors=command.num_actors, cpus=command.cpus_per_actor, gpus=command.gpus_per_actor)
    model = read_regressor_model(command.model)
    placement.connect()
    return annotate_by_model(work, command.name, model, pool, standardize=command.standardize_va, report=Progress().say)


def by_table(command: AnnotateByTable, dataset: "Dataset") -> "Dataset":
    """The version that a table makes."""
    from ldlva_dist import storage
    from ldlva_dist.packing.annotate.annotate import annotate_by_table
    from ldlva_dist.packing.annotate.va_table import PointFile
    from ldlva_dist.runtime import placement
    from ldlva_dist.storage.csv_file import delimiter_option, delimiter_remark

    table = PointFile(
        uri=storage.absolute(command.table),
        key=command.key_column,
        valence=command.valence_column,
        arousal=command.arousal_column,
        delimiter=delimiter_option(command.delimiter),
        clip=command.clip,
    )
    if remark := delimiter_remark(table.uri, table.delimiter):
        say(remark)
    placement.connect()
    made, unused = annotate_by_table(dataset, command.name, table, standardize=command.standardize_va)
    say(f"rows of the table that no sample has: {unused}")
    return made


class Progress:
    """A line every other second, and one at the end."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()
        self._first: int | None = None

    def say(self, done: int, total: int) -> None:
        """Rows done of the rows of all splits; the first call says where an interrupted job stood."""
        now = time.monotonic()
        if self._first is None:
            self._began, self._first = now, done
        if done < total and now - self._said < LINE_EVERY_S:
            return
        self._said = now
        speed = (done - self._first) / max(now - self._began, 1e-9)
        left = format_seconds((total - done) / speed) if speed else None
        say(f"annotated {done:,} of {total:,} rows  {speed:,.0f} rows/s  left {left or 'unknown'}")
