"""Packing in pieces: the same bytes on any cluster and after any interruption, and what becomes of bad rows."""

import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import encode_image
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.passes.pack import Packed, pack
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.drawn_faces.faces import FacesSource
from ldlva_dist.packing.sources.readers.folder import FolderSource
from ldlva_dist.packing.sources.readers.parquet import ParquetSource
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES

pytestmark = pytest.mark.usefixtures("cluster")
SETTINGS = PackSettings(name="set", class_names=("calm", "glad", "sad"), holdout=0.2, noise="symmetric:0.25")
FILES, ROWS = 6, 40


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ParquetSource:
    """Six files of 40 rows, the last one of the test part: six partitions."""
    folder, generator = tmp_path_factory.mktemp("source"), np.random.default_rng(0)
    for file in range(FILES):
        images = generator.integers(0, 256, (ROWS, 16, 16, 3), dtype=np.uint8)
        columns = {
            "name": [f"face-{file}-{row}" for row in range(ROWS)],
            "image": [encode_image(image) for image in images],
            "expression": generator.choice(SETTINGS.class_names, ROWS),
            "valence": generator.uniform(-1, 1, ROWS),
            "arousal": generator.uniform(-1, 1, ROWS),
        }
        pq.write_table(pa.table(columns), folder / f"{file}.parquet")
    return _source(folder)


def _source(folder: Path) -> ParquetSource:
    files = [str(folder / f"{file}.parquet") for file in range(FILES)]
    return ParquetSource(files={"train": tuple(files[:-1]), "test": (files[-1],)}, key="name")


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _stop_at(what: str, done: int) -> Callable[[str, int, int], None]:
    """A user's Ctrl-C at some point."""

    def progress(now: str, rows: int, total: int) -> None:
        if now == what and rows >= done:
            raise KeyboardInterrupt

    return progress


class Log:
    """What the progress was when each pass began."""

    def __init__(self) -> None:
        self.first: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        self.first.setdefault(what, done)


ONE_CPU = """
import os, signal, sys
import ray
from ldlva_dist.packing.passes.pack import pack
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.readers.parquet import ParquetSource

train, test, whole, killed = sys.argv[1].split(","), sys.argv[2], sys.argv[3], sys.argv[4]
source = ParquetSource(files={"train": tuple(train), "test": (test,)}, key="name")
settings = PackSettings(name="set", class_names=("calm", "glad", "sad"), holdout=0.2, noise="symmetric:0.25")
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)

def die_half_way(what, done, total):
    if what == "writing" and 0 < done < total:
        os.kill(os.getpid(), signal.SIGKILL)

pack(source, whole, settings)
pack(source, killed, settings, progress=die_half_way)
"""


def test_one_cpu_and_four_and_a_killed_and_resumed_packing_give_the_same_bytes(
    source: ParquetSource, tmp_path: Path
) -> None:
    four, one, killed = (tmp_path / name for name in ("four", "one", "killed"))
    pack(source, str(four), SETTINGS)
    arguments = [",".join(source.files["train"]), source.files["test"][0], str(one), str(killed)]
    done = subprocess.run([sys.executable, "-c", ONE_CPU, *arguments], timeout=300, check=False)
    assert done.returncode == -9
    assert not killed.exists()
    log = Log()
    pack(source, str(killed), SETTINGS, progress=log)
    assert log.first["verifying"] == FILES * ROWS
    assert log.first["writing"] > 0
    assert _files(four) == _files(one) == _files(killed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["four", "killed", "one"]


def test_an_interrupted_packing_says_where_its_pieces_are_and_other_settings_start_anew(
    source: ParquetSource, tmp_path: Path
) -> None:
    output = str(tmp_path / "set")
    with pytest.raises(KeyboardInterrupt, match=r"interrupted; what is done is kept in .*/\.set\.packing"):
        pack(source, output, SETTINGS, progress=_stop_at("writing", 1))
    assert [path.name for path in tmp_path.iterdir()] == [".set.packing"]
    log = Log()
    pack(source, output, replace(SETTINGS, seed=1), progress=log)
    assert log.first == {"verifying": 0, "writing": 0}
    pack(source, str(tmp_path / "fresh"), replace(SETTINGS, seed=1))
    assert _files(tmp_path / "set") == _files(tmp_path / "fresh")


def test_a_table_that_changed_since_the_interruption_is_read_again(source: ParquetSource, tmp_path: Path) -> None:
    shutil.copytree(Path(source.files["train"][0]).parent, tmp_path / "source")
    changed, log = _source(tmp_path / "source"), Log()
    with pytest.raises(KeyboardInterrupt):
        pack(changed, str(tmp_path / "set"), SETTINGS, progress=_stop_at("writing", 0))
    table = pq.read_table(changed.files["train"][0])
    labels = table.column_names.index("expression")
    pq.write_table(table.set_column(labels, "expression", pa.array(["sad"] * ROWS)), changed.files["train"][0])
    pack(changed, str(tmp_path / "set"), SETTINGS, progress=log)
    assert log.first["verifying"] == 0


def test_noise_stands_in_the_manifest_beside_the_given_labels(source: ParquetSource, tmp_path: Path) -> None:
    packed = pack(source, str(tmp_path / "noisy"), SETTINGS)
    pack(source, str(tmp_path / "plain"), replace(SETTINGS, noise=None))
    noisy = Dataset.open(str(tmp_path / "noisy")).columns(["key", "label", "original_label", "flipped", "split"])
    plain = Dataset.open(str(tmp_path / "plain")).columns(["key", "label"])
    assert noisy["key"] == plain["key"]
    assert noisy["original_label"].to_pylist() == plain["label"].to_pylist()
    flipped = noisy["flipped"].to_numpy()
    assert (flipped == (noisy["label"].to_numpy() != plain["label"].to_numpy())).all()
    assert flipped.sum() == round(0.25 * 5 * ROWS)
    assert not flipped[noisy["split"].to_numpy() == "test"].any()
    assert packed.info.flip_share == pytest.approx(0.25)


def test_a_noise_list_changes_the_rows_it_names(source: ParquetSource, tmp_path: Path) -> None:
    labels = pq.read_table(source.files["train"][0])["expression"].to_pylist()
    other = {"calm": "glad", "glad": "sad", "sad": "calm"}
    lines = [f"face-0-{row}.png {other[labels[row]] if row < 3 else labels[row]}" for row in range(ROWS)]
    path = tmp_path / "noise.txt"
    path.write_text("\n".join(lines))
    pack(source, str(tmp_path / "set"), replace(SETTINGS, noise=f"list:{path}"))
    table = Dataset.open(str(tmp_path / "set")).columns(["key", "flipped"]).to_pylist()
    assert {row["key"] for row in table if row["flipped"]} == {"face-0-0", "face-0-1", "face-0-2"}
    path.write_text("\n".join([*lines, "nobody.jpg sad"]))
    with pytest.raises(DataError, match=r"names 'nobody\.jpg', and 0 more, which are no rows"):
        pack(source, str(tmp_path / "none"), replace(SETTINGS, noise=f"list:{path}"))
    assert not (tmp_path / ".none.packing").exists()


def _spoiled(source: ParquetSource, folder: Path, images: dict[int, bytes]) -> ParquetSource:
    """The same files with other images in some rows of the first."""
    shutil.copytree(Path(source.files["train"][0]).parent, folder)
    spoiled = _source(folder)
    table = pq.read_table(spoiled.files["train"][0])
    column = [images.get(row, image) for row, image in enumerate(table["image"].to_pylist())]
    at = table.column_names.index("image")
    pq.write_table(table.set_column(at, "image", pa.array(column)), spoiled.files["train"][0])
    return spoiled


def _bomb() -> bytes:
    """A PNG of 68 million pixels in some kilobytes."""
    buffer = io.BytesIO()
    Image.new("1", (8300, 8300)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def spoiled(source: ParquetSource, tmp_path: Path) -> ParquetSource:
    return _spoiled(source, tmp_path / "source", {3: b"\xff\xd8 no image", 7: _bomb(), 8: b""})


def test_quarantine_lists_bad_rows_and_skip_only_counts_them(spoiled: ParquetSource, tmp_path: Path) -> None:
    reasons = {
        "the image cannot be decoded": 1,
        "the image has more than 64 million pixels, or 10000 a side": 1,
        "the image is missing": 1,
    }
    packed: dict[str, Packed] = {}
    for policy in ("quarantine", "skip"):
        settings = replace(SETTINGS, on_bad_data=policy, max_rejected=0.02)
        packed[policy] = pack(spoiled, str(tmp_path / policy), settings)
        assert packed[policy].reasons == reasons
        assert packed[policy].info.num_rejected == 3
    listed = pq.read_table(tmp_path / "quarantine" / "rejected.parquet").to_pylist()
    assert [(row["part"], row["row"], row["key"]) for row in listed] == [
        ("train", row, f"face-0-{row}") for row in (3, 7, 8)
    ]
    assert pq.read_table(tmp_path / "skip" / "rejected.parquet").num_rows == 0
    assert packed["skip"].info.content_hash == packed["quarantine"].info.content_hash


def test_over_the_budget_or_with_fail_nothing_is_left(spoiled: ParquetSource, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the train part .* 3 of 200 rows were rejected, --max-rejected allows 1\.00%"):
        pack(spoiled, str(tmp_path / "set"), SETTINGS)
    with pytest.raises(DataError, match=r"'face-0-3' in row 3 of .*0\.parquet \(--on-bad-data fail\)"):
        pack(spoiled, str(tmp_path / "set"), replace(SETTINGS, on_bad_data="fail"))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_noise_over_labels_that_a_source_flips_itself_is_refused(tmp_path: Path) -> None:
    settings = PackSettings(name="set", class_names=REFERENCE_CLASSES, noise="symmetric:0.1")
    with pytest.raises(SettingError, match="--noise needs labels as they were given"):
        pack(FacesSource(train=100, test=0), str(tmp_path / "set"), settings)


def test_an_image_that_changed_since_it_was_verified_ends_the_packing(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = [f"{i}.jpg,{('calm', 'glad', 'sad')[i % 3]}" for i in range(12)]
    (tmp_path / "table.csv").write_text("\n".join(["subDirectory_filePath,expression", *rows]) + "\n")
    for i in range(12):
        (tmp_path / f"{i}.jpg").write_bytes(encode_image(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)))
    folder = FolderSource(tables={"train": (str(tmp_path / "table.csv"),)}, images={"train": str(tmp_path)})
    settings, output = replace(SETTINGS, holdout=0.0), str(tmp_path / "set")
    with pytest.raises(KeyboardInterrupt):
        pack(folder, output, settings, progress=_stop_at("writing", 0))
    (tmp_path / "7.jpg").write_bytes(encode_image(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)))
    with pytest.raises(DataError, match="the image of '7' changed while the data set was packed"):
        pack(folder, output, settings)
    assert not (tmp_path / ".set.packing").exists()
