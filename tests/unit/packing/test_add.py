"""Adding rows: old training rows keep their ids, the graph is that of a new search, what does not fit is refused."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.state_file import Facts
from ldlva_dist.dataset import dataset as opened
from ldlva_dist.dataset import manifest as manifest_file
from ldlva_dist.dataset import manifest_blocks
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import encode_image
from ldlva_dist.dataset.manifest_checks import check_manifest
from ldlva_dist.dataset.relabel_rounds import read_rounds
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.index.graph import build_graph, read_graph
from ldlva_dist.packing.add import adding
from ldlva_dist.packing.passes import finish, finish_added
from ldlva_dist.packing.passes.pass2_order import Order
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.relabel import read_corrections, relabel
from ldlva_dist.packing.sources.generic import Parquet
from ldlva_dist.packing.sources.image_tables import Folder
from ldlva_dist.packing.verify_shards import check_shard
from testing.local_packing import pack_here, rejected

CLASSES = ("calm", "glad")
OLD, NEW = range(60), range(60, 74)
COLUMNS = ("path", "label", "valence", "arousal", "person")
Face = tuple[str, str, str, str, str]


@pytest.fixture(autouse=True, scope="module")
def _small_row_groups() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (manifest_file, manifest_blocks, opened, finish, finish_added):
            patch.setattr(module, "ROW_GROUP_ROWS", 16)
        yield


def faces(numbers: Sequence[int]) -> list[Face]:
    """Each of five people has three pictures of fifteen; points lie on a grid, so that many are equally far."""
    return [
        (f"{n}.jpg", CLASSES[n % 2], str((n * 7 % 9) / 4 - 1), str((n * 5 % 9) / 4 - 1), f"p{n // 3 % 5}")
        for n in numbers
    ]


def command(images: Path, train: list[Face], test: Sequence[Face] = (), columns: int = 5, **more: Any) -> Folder:
    """The kind of source that packs some faces."""
    has_va = columns > 2
    settings: dict[str, Any] = {"keep_column": ("person",) if columns == len(COLUMNS) else ()}
    return Folder(
        table=table(images.parent, train, columns),
        test_table=table(images.parent, test, columns),
        images=str(images),
        path_column="path",
        label_column="label",
        valence_column="valence" if has_va else None,
        arousal_column="arousal" if has_va else None,
        **settings | more,
    )


def table(folder: Path, rows: Sequence[Face], columns: int) -> tuple[str, ...]:
    """A CSV of the first columns of some faces; none for no faces."""
    if not rows:
        return ()
    lines = [row[:columns] for row in (COLUMNS, *rows)]
    path = folder / f"{hashlib.sha256(str(lines).encode()).hexdigest()[:8]}.csv"
    path.write_text("".join(f"{','.join(line)}\n" for line in lines))
    return (str(path),)


@pytest.fixture(scope="module")
def packed(_small_row_groups: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty pictures of noise; a set of fifty training faces, some of them in the holdout, ten of test; its graph."""
    root, generator = tmp_path_factory.mktemp("packed"), np.random.default_rng(0)
    (root / "images").mkdir()
    for number in range(80):
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        (root / "images" / f"{number}.jpg").write_bytes(encode_image(pixels))
    source = command(root / "images", faces(OLD[:50]), faces(OLD[50:])).source()
    pack_here(source, root / "set", PackSettings(name="faces", class_names=CLASSES, holdout=0.2, seed=3))
    build_graph(Dataset.open(str(root / "set")), 5, part_rows=16)
    return root


@pytest.fixture
def images(packed: Path, tmp_path: Path) -> Path:
    shutil.copytree(packed, tmp_path, dirs_exist_ok=True)
    return tmp_path / "images"


@pytest.fixture
def old(images: Path) -> Dataset:
    return Dataset.open(str(images.parent / "set"))


def add(old: Dataset, name: str, new: Folder | Parquet, *, backwards: bool = False) -> tuple[Dataset, Order]:
    source, settings = adding(new, old)
    output = Path(old.root_uri, "versions", name)
    order = pack_here(source.source(), output, settings, parent=old, backwards=backwards)
    return Dataset.open(str(output)), order


def by_key(dataset: Dataset) -> dict[str, dict]:
    return {row["key"]: row for row in dataset.columns(dataset.column_names()).to_pylist()}


def digests(folder: str | Path) -> dict[str, str]:
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    files = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    return {name: digest for name, digest in files.items() if not name.startswith("versions/")}


def test_old_rows_keep_their_order_and_files_and_new_ones_follow_in_each_split(images: Path, old: Dataset) -> None:
    before, there = digests(old.uri), by_key(old)
    new, order = add(old, "more", command(images, faces(NEW[:11]), faces(NEW[11:])))
    rows = by_key(new)
    assert digests(old.uri) == before
    assert set(rows) == set(there) | {str(n) for n in NEW}
    assert sum(order.splits) == len(NEW)
    assert min(order.splits) > 0
    for number, split in enumerate(("train", "holdout", "test")):
        place, was = new.info.splits[split], old.info.splits[split]
        assert place.rows == was.rows + order.splits[number]
        keys = new.columns(["key"], first_id=place.first_id, rows=place.rows)["key"].to_pylist()
        assert keys[: was.rows] == old.columns(["key"], first_id=was.first_id, rows=was.rows)["key"].to_pylist()
        assert {rows[key]["split"] for key in keys} <= {split}
    for key, row in there.items():
        assert rows[key] | {"id": 0, "shard": 0} == row | {"id": 0, "shard": 0}
    stored = new.images(range(new.num_rows))
    for key, row in rows.items():
        assert bytes(stored.read(row["id"])) == (images / f"{key}.jpg").read_bytes()
    assert sorted(path.name for path in Path(new.uri).glob("*.tar")) == sorted(
        shard.name for shard in new.info.shards if shard.version == "more"
    )
    assert list(check_manifest(new, keys=True)) == []
    assert [check_shard(new, number) for number in range(len(new.info.shards))] == [[]] * len(new.info.shards)
    info = new.info
    assert (info.root, info.parent, info.rows) == (old.info.content_hash, old.info.content_hash, info.content_hash)
    assert info.source["added"][0]["holdout"] == 0.2


@pytest.mark.parametrize("backwards", [False, True])
def test_the_graph_and_all_other_files_are_those_of_a_new_search_and_of_any_cluster(
    images: Path, old: Dataset, backwards: bool
) -> None:
    build_graph(old, 3)
    new, _ = add(old, "more", command(images, faces(NEW)), backwards=backwards)
    files = digests(new.uri)
    assert len([name for name in files if name.startswith("graph-K5/ids-")]) == -(-new.info.num_train // 16) > 3
    for k, part_rows in ((5, 16), (3, 1 << 18)):
        build_graph(new, k, part_rows=part_rows)
    assert digests(new.uri) == files
    again, _ = add(old, "again", command(images, faces(NEW)))
    assert {name for name, digest in digests(again.uri).items() if digest != files[name]} == {"dataset.json"}
    ids, _ = read_graph(new, 0, new.info.num_train, 5)
    touched = np.unique(np.argwhere(ids[: old.info.num_train] >= old.info.num_train)[:, 0])
    assert 0 < len(touched) < old.info.num_train


def test_rows_are_added_to_versions_and_corrected_afterwards(images: Path, old: Dataset, tmp_path: Path) -> None:
    key = old.columns(["key"], first_id=old.info.splits["test"].first_id, rows=1)["key"][0].as_py()
    other = CLASSES[1 - by_key(old)[key]["label"]]
    (tmp_path / "marked.csv").write_text(f"key,given,decision\n{key},{CLASSES[by_key(old)[key]['label']]},{other}\n")
    checked = relabel(old, "checked", read_corrections([str(tmp_path / "marked.csv")], old))
    more, _ = add(checked, "more", command(images, faces(NEW[:7])))
    most, _ = add(more, "most", command(images, faces(NEW[7:])))
    row = by_key(most)[key]
    assert row["label"] == CLASSES.index(other) == 1 - row["original_label"]
    assert by_key(most)["60"]["original_label"] == by_key(most)["60"]["label"]
    assert read_rounds(most)["id"].to_pylist() == [row["id"]]
    assert row["id"] != by_key(old)[key]["id"]
    assert {shard.version for shard in most.info.shards} == {None, "more", "most"}
    assert list(check_manifest(most, keys=True)) == []
    for dataset in (old, checked, more, most):
        knows = Checkpoint("run", Facts("state.json", _facts(dataset)))
        assert knows.known_rows(most.info) == dataset.info.num_train
    with pytest.raises(SettingError, match="which knows other rows"):
        Checkpoint("run", Facts("state.json", _facts(most))).known_rows(more.info)
    again = relabel(most, "again", read_corrections([_marks(tmp_path, most, "61")], most))
    assert again.info.rows_hash == most.info.rows_hash
    assert again.root_uri == old.uri
    stored = again.images(range(again.num_rows))
    assert bytes(stored.read(by_key(again)["61"]["id"])) == (images / "61.jpg").read_bytes()


def _facts(dataset: Dataset) -> dict:
    info = dataset.info
    facts = {"class_names": list(info.class_names), "content_hash": info.content_hash, "rows_hash": info.rows_hash}
    return facts | {"files": {}}


def _marks(folder: Path, dataset: Dataset, key: str) -> str:
    label = by_key(dataset)[key]["label"]
    (folder / "again.csv").write_text(f"key,given,decision\n{key},{CLASSES[label]},{CLASSES[1 - label]}\n")
    return str(folder / "again.csv")


def test_rows_that_are_there_are_left_out_and_their_copies_counted(images: Path, old: Dataset) -> None:
    for copy, original in (("75.jpg", "3.jpg"), ("76.jpg", "4.jpg")):
        (images / copy).write_bytes((images / original).read_bytes())
    (images / "other").mkdir()
    (images / "other" / "5.jpg").write_bytes((images / "77.jpg").read_bytes())
    rows = [*faces(range(9)), *faces([75, 76]), ("other/5.jpg", *faces([77])[0][1:])]
    new, order = add(old, "more", command(images, rows))
    assert order.reasons == {"left out: the data set has the row already": 9}
    assert len(rejected(Path(new.uri))) == 9
    said = "\n".join(order.notes)
    assert "added" in said
    assert sum(int(line.split()[1]) for line in order.notes if "are in" in line and line.startswith("copies:")) == 2
    without, order = add(old, "without", replace(command(images, rows), drop_copies=True))
    assert order.reasons["left out: the data set has its image already"] == 2
    assert sum(order.splits) == 1
    assert without.num_rows == old.num_rows + 1
    with pytest.raises(DataError, match=r"there is nothing to add: left out: the data set has the row already \(60\)"):
        add(old, "none", command(images, faces(OLD[:50]), faces(OLD[50:])))


def test_a_name_that_is_there_with_another_image_gets_a_key_of_its_own_each_time(images: Path, old: Dataset) -> None:
    changed = images.parent / "changed"
    changed.mkdir()
    (changed / "3.jpg").write_bytes((images / "78.jpg").read_bytes())
    new, _ = add(old, "more", command(changed, faces([3])))
    [key] = set(by_key(new)) - set(by_key(old))
    assert key.startswith("3-")
    (changed / "3.jpg").write_bytes((images / "79.jpg").read_bytes())
    most, _ = add(new, "most", command(changed, faces([3])))
    assert len(set(by_key(most)) - set(by_key(new))) == 1
    assert list(check_manifest(most, keys=True)) == []


@pytest.mark.parametrize(
    ("columns", "more", "sentence"),
    [
        (4, {}, "they have no extra_person"),
        (2, {}, "they have no extra_person, valence-arousal"),
        (5, {"keep_column": ("person", "path")}, "the data set has no extra_path"),
        (
            5,
            {"classes": ("glad", "calm")},
            r"--classes must give the classes of the data set, in its order \(calm, glad\)",
        ),
        (5, {"noise": "symmetric:0.1"}, "--noise must be left to the packing of a whole set, got symmetric:0.1"),
        (5, {"seed": 4}, r"--seed must be the one that the data set was packed with \(3\), got 4"),
    ],
)
def test_what_does_not_fit_is_refused(images: Path, old: Dataset, columns: int, more: dict, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        add(old, "more", command(images, faces(NEW), columns=columns, **more))


def test_votes_must_be_on_both_sides(images: Path, old: Dataset) -> None:
    image = (images / "60.jpg").read_bytes()
    columns = {"image": [image], "label": ["calm"], "calm": [3], "glad": [1], "valence": [0.1], "arousal": [0.1]}
    pq.write_table(pa.table(columns), images.parent / "new.parquet")
    names: dict[str, Any] = {
        "label_column": "label",
        "valence_column": "valence",
        "arousal_column": "arousal",
        "votes": CLASSES,
    }
    with pytest.raises(SettingError, match=r"they have no extra_person; the data set has no votes$"):
        add(old, "more", Parquet(train=(str(images.parent / "new.parquet"),), **names))


def test_a_damaged_manifest_is_not_added_to(images: Path, old: Dataset) -> None:
    damaged = replace(old, info=replace(old.info, content_hash="0" * 64))
    with pytest.raises(DataError, match="does not have the content hash"):
        add(damaged, "more", command(images, faces(NEW)))


def test_a_person_stays_in_the_part_that_it_is_in_and_is_counted_in_two(images: Path) -> None:
    train = [row for row in faces(range(45)) if row[4] != "p4"]
    settings = PackSettings(name="faces", class_names=CLASSES, holdout=0.3, holdout_by="person")
    order = pack_here(command(images, train, faces([12, 13, 57])).source(), images.parent / "by_person", settings)
    assert [note for note in order.notes if note.startswith("person:")] == []
    old = Dataset.open(str(images.parent / "by_person"))
    parts = {row["extra_person"]: row["split"] for row in by_key(old).values()}
    assert set(parts.values()) == {"train", "holdout", "test"}
    new, order = add(old, "more", command(images, faces(range(60, 75)), faces([78])))
    for row in by_key(new).values():
        if row["id"] < new.info.splits["test"].first_id and row["extra_person"] != "p4":
            assert row["split"] == parts[row["extra_person"]], row
    assert [note for note in order.notes if note.startswith("person:")] != []
    stranger = [(*row[:4], "p9") for row in faces(range(60, 64))]
    _, order = add(old, "one", command(images, stranger))  # the holdout has its share already
    assert order.splits == [4, 0, 0]
