"""Pack faces into a data set: python jobs/make_shards.py KIND --output DATASET ...; or read one again: verify DATASET.

KIND is what the faces lie in: folder, parquet, affectnet, rafdb, ferplus and others; `guess PATH` says which. The same
command resumes where an interrupted one stopped. `add DATASET KIND --name NAME` makes a version with more rows,
`relabel` one with labels that people corrected.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand

from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.sources.commands import Command
from ldlva_dist.records.console import say
from ldlva_dist.reporting.progress_bar import ProgressBar
from ldlva_dist.reporting.terminal import print_lines
from ldlva_dist.values.settings import check_name, check_options, require

if TYPE_CHECKING:
    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.packing.passes.settings import PackSettings

SHOWN_GROUPS = 10


@dataclass(frozen=True)
class Verify:
    """Read a whole data set again: shards, manifest and neighbour graphs; exit code 3 says what is wrong."""

    dataset: Positional[str]
    """Folder or s3:// prefix of a data set, or of a version of one."""
    duplicates: str | None = None
    """CSV to write: groups of images that are the same, or nearly (other size, compression or brightness)."""


@dataclass(frozen=True, kw_only=True)
class Relabel:
    """Write a version of the data set with the labels that people corrected, in the report's page or in another tool.

    No image is written again. Keys and given labels of the lists must be those of the data set.
    """

    dataset: str
    """Folder or s3:// prefix of the data set, or version of one, that the report was made of."""
    name: str
    """Name of the new version: it is written to DATASET/versions/NAME."""
    marked: tuple[str, ...]
    """Files with decisions, one or several reviewers': the page's CSV, or any format of jobs/exchange.py."""
    round: str | None = None
    """Name of this round of relabelling in the record of who changed what; the version's name if not given."""
    on_conflict: Literal["stop", "keep-given"] = "stop"
    """Samples on which reviewers differ, which are listed: stop with exit code 3, or leave their labels as they are."""

    def __post_init__(self) -> None:
        check_options(self)
        require(bool(self.marked), "--marked must name a file at least, got none")
        check_name("--round", self.round or self.name)


@dataclass(frozen=True)
class AddRows:
    """Add rows to a data set, as a new version of it: add DATASET KIND --name NAME, and the settings of the kind.

    Old training rows keep their ids, no image of theirs is written again, and the neighbour graphs are extended.
    """

    dataset: Positional[str]
    """Folder or s3:// prefix of the data set, or version of one; the new version is DATASET/versions/NAME."""
    source: OmitSubcommandPrefixes[OmitArgPrefixes[Command]]
    """What the new rows lie in."""


@dataclass(frozen=True)
class GuessSource:
    """Say what a folder, table or tar is: the command that packs it, its classes and counts. Nothing is written."""

    path: Positional[str]
    """Folder, file or s3:// prefix."""


def run_make_shards() -> None:
    """Pack, add, guess, verify or relabel."""
    others = Annotated[Verify, subcommand("verify")] | Annotated[Relabel, subcommand("relabel")]
    more = Annotated[GuessSource, subcommand("guess")] | Annotated[AddRows, subcommand("add")]
    command = tyro.cli(Command | others | more, description=__doc__)
    if isinstance(command, AddRows):
        run_add(command)
    elif isinstance(command, GuessSource):
        run_guess(command.path)
    elif isinstance(command, Verify):
        run_verify(command)
    elif isinstance(command, Relabel):
        run_relabel(command)
    else:
        run_pack(command)


def run_guess(path: str) -> None:
    """Say every kind that fits, the known set first."""
    from ldlva_dist.packing.guess.guess import guess

    found = guess(path)
    if len(found) > 1:
        say(f"{len(found)} kinds of source fit")
    for one in found:
        say(one.why)
        for part, counts in one.counts.items():
            listed = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
            say(f"  {part}: {listed or 'no labels'}")
        for note in one.notes:
            say(f"  {note}")
        say(f"  {one.command}")


def run_verify(command: Verify) -> None:
    """Say "ok" and what was read, and which images are there more than once."""
    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.packing.near_copies import find_copy_groups, write_copy_groups
    from ldlva_dist.packing.passes.copies import copies_in
    from ldlva_dist.packing.verify import verify
    from ldlva_dist.runtime import placement
    from ldlva_dist.runtime.pieces import run_pieces

    dataset = Dataset.open(command.dataset)  # a wrong address is said before a cluster starts
    placement.connect()
    with ProgressBar() as progress:
        graphs = verify(dataset, progress)
    copies = next(run_pieces(lambda _: copies_in(dataset), [0]))[1]
    shards = dataset.info.shards
    size = sum(shard.bytes for shard in shards) / 1e6
    say(f"ok: {dataset.num_rows} rows in {len(shards)} shards, {size:.1f} MB; neighbour graphs: {graphs}")
    say(f"content hash {dataset.info.content_hash}")
    print_lines(copies)
    if command.duplicates is not None:
        with ProgressBar() as progress:
            groups = find_copy_groups(dataset, progress)
        write_copy_groups(command.duplicates, groups)
        print_lines(str(group) for group in groups[:SHOWN_GROUPS])
        leaks, images = sum(group.is_leak for group in groups), sum(len(group.ids) for group in groups)
        say(f"duplicates: {len(groups)} groups of {images} images, {leaks} across splits")
        say(f"written: {command.duplicates}")


def run_relabel(command: Relabel) -> None:
    """Check the list, write the version, say what was changed."""
    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.packing.relabel import read_corrections, relabel
    from ldlva_dist.reporting.dataset_table import print_dataset

    dataset = Dataset.open(command.dataset)
    corrections = read_corrections(command.marked, dataset)
    print_lines(corrections.conflict_lines())
    conflicts = len(corrections.conflicts)
    if conflicts and command.on_conflict == "stop":
        raise DataError(
            f"reviewers differ on {conflicts} samples, listed above: decide on them, or leave their labels as they are "
            "with --on-conflict keep-given"
        )
    made = relabel(dataset, command.name, corrections, round_name=command.round)
    print_dataset(made.info, made.uri, reasons={})
    marked = ", ".join(command.marked)
    say(f"labels changed: {corrections.num_changed} of {len(corrections.ids_M) + conflicts} in {marked}")
    if conflicts:
        say(f"labels left as they were, because reviewers differ: {conflicts}")
    after = f"after: python jobs/build_index.py --dataset {made.uri}"
    say(f"written: {made.uri}; train on it {after if made.info.has_valence_arousal else 'with --index.space feature'}")


def run_pack(command: Command) -> None:
    """Verify every row, then write everything."""
    from ldlva_dist import storage
    from ldlva_dist.dataset.manifest import DATASET
    from ldlva_dist.packing.passes.settings import PackSettings
    from ldlva_dist.packing.sources.common import HOLDOUT

    if not command.output:
        raise SettingError("--output must name a folder or an s3:// prefix to write, got nothing")
    taken = storage.join(command.output, DATASET) if storage.is_remote(command.output) else command.output
    if storage.exists(taken):
        raise SettingError(f"--output must not exist, got {command.output!r}")
    stated = command.stated()
    settings = PackSettings(
        name=command.name or command.output.rstrip("/").rpartition("/")[2],
        class_names=stated.names,
        numbers=stated.numbers,
        size=command.size,
        holdout=HOLDOUT if command.holdout is None else command.holdout,
        holdout_by=command.holdout_by,
        drop_copies=command.drop_copies,
        seed=command.seed,
        standardize_va=command.standardize_va,
        shuffle_va=command.shuffle_va,
        noise=command.noise,
        on_bad_data=command.on_bad_data,
        max_rejected=command.max_rejected,
    )
    _pack(command, command.output, settings, None)


def run_add(command: AddRows) -> None:
    """Write the version and its graphs; say what is new."""
    from ldlva_dist.dataset.dataset import Dataset
    from ldlva_dist.dataset.versions import check_free, version_uri
    from ldlva_dist.index.graph import graph_infos
    from ldlva_dist.packing.add import adding

    dataset, name = Dataset.open(command.dataset), command.source.name
    if name is None or command.source.output:
        raise SettingError(
            f"add must be given --name NAME, and no --output: it writes {command.dataset}/versions/NAME, "
            f"got --name {name!r} --output {command.source.output!r}"
        )
    source, settings = adding(command.source, dataset)
    uri = version_uri(dataset, name)
    check_free(uri)
    _pack(source, uri, settings, dataset)
    made = Dataset.open(uri)
    for split, now in made.info.splits.items():
        say(f"added to {split}: {now.rows - dataset.info.splits[split].rows:,} of {now.rows:,} rows")
    graphs = [f"graph-K{graph.num_neighbors}" for _, graph in graph_infos(uri)]
    build = f"none; build one: python jobs/build_index.py --dataset {uri}"
    if made.info.has_valence_arousal:
        say(f"neighbour graphs extended: {', '.join(graphs) or build}")
    say(f"written: {uri}; a run on it can begin with what one on the old rows has learnt: --training.start-from RUN")


def _pack(command: Command, output: str, settings: "PackSettings", parent: "Dataset | None") -> None:
    from ldlva_dist import storage
    from ldlva_dist.packing.passes.pack import pack
    from ldlva_dist.reporting.dataset_table import print_dataset
    from ldlva_dist.runtime import placement

    source = command.source()
    partitions = source.partitions()  # what is wrong with a table is said before a cluster starts
    storage.check_writable(output)
    placement.connect()
    try:
        with ProgressBar() as progress:
            packed = pack(source, output, settings, partitions=partitions, progress=progress, parent=parent)
        print_dataset(packed.info, output, reasons=packed.reasons)
        print_lines(packed.notes)
    finally:  # what was passed over may be what an error is about
        print_lines(command.notes())
