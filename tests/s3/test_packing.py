"""Packing from a store into a store, by tasks on a cluster: the same bytes as on a disk, whole or not at all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import encode_image
from ldlva_dist.errors import DataError
from ldlva_dist.index.graph import build_graph
from ldlva_dist.packing.passes.pack import pack
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.readers.parquet import ParquetSource
from ldlva_dist.packing.verify import verify
from testing.s3_store import FaultProxy

FILES = ("a.parquet", "b.parquet", "c.parquet")
STORE = "s3://faces/packing"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local")


@pytest.fixture(scope="module")
def said(cluster: None, proxy: FaultProxy, local: Path) -> dict[str, Any]:
    """Three files in the store and on disk, packed from both; what was said."""
    proxy.set()
    generator = np.random.default_rng(0)
    for name in FILES:
        columns = {
            "name": [f"{name[0]}{row}" for row in range(30)],
            "image": [encode_image(image) for image in generator.integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)],
            "expression": generator.choice(["calm", "glad"], 30),
            **{axis: generator.uniform(-1, 1, 30).astype(np.float32) for axis in ("valence", "arousal")},
        }
        pq.write_table(pa.table(columns), local / name)
        storage.upload(str(local / name), f"{STORE}/source/{name}")
    storage.write_bytes(f"{STORE}/noise.txt", b"nobody.jpg 1\n")
    settings, resumed = PackSettings(name="set", class_names=("calm", "glad"), holdout=0.2), dict[str, int]()
    on_disk, in_store = (
        ParquetSource(files={"train": tuple(f"{at}/{name}" for name in FILES)}, key="name")
        for at in (local, f"{STORE}/source")
    )

    def stop(what: str, done: int, total: int) -> None:
        if what == "writing" and done:
            raise KeyboardInterrupt

    pack(on_disk, f"{local}/set", settings)
    pack(in_store, f"{STORE}/set", settings)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        pack(in_store, f"{STORE}/again", settings, progress=stop)
    with pytest.raises(DataError) as before:
        verify(Dataset.open(f"{STORE}/again"))

    def keep_first(what: str, done: int, total: int) -> None:
        resumed.setdefault(what, done)

    pack(in_store, f"{STORE}/again", settings, progress=keep_first)
    _add(local, settings)
    with pytest.raises(DataError) as refused:
        pack(in_store, f"{STORE}/none", replace(settings, noise=f"list:{STORE}/noise.txt"))
    return {
        "verified": verify(Dataset.open(f"{STORE}/set")),
        "interrupted": str(interrupted.value),
        "before": str(before.value),
        "resumed": resumed,
        "refused": str(refused.value),
    }


def _add(local: Path, settings: PackSettings) -> None:
    """Add a fourth file to the set on disk and in the store, where it is interrupted once."""
    table = pq.read_table(local / "a.parquet")
    generator = np.random.default_rng(1)
    new = [encode_image(image) for image in generator.integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)]
    table = table.set_column(1, "image", [new]).set_column(0, "name", [[f"d{row}" for row in range(30)]])
    pq.write_table(table, local / "d.parquet")
    storage.upload(str(local / "d.parquet"), f"{STORE}/source/d.parquet")
    wrote = []

    def stop(what: str, done: int, total: int) -> None:
        if what == "writing" and done and not wrote:
            wrote.append(done)
            raise KeyboardInterrupt

    for root, source in ((f"{local}/set", str(local)), (f"{STORE}/set", f"{STORE}/source")):
        build_graph(Dataset.open(root), 4)
        rows, output = ParquetSource(files={"train": (f"{source}/d.parquet",)}, key="name"), f"{root}/versions/more"
        if root.startswith("s3"):
            with pytest.raises(KeyboardInterrupt):
                pack(rows, output, settings, parent=Dataset.open(root), progress=stop)
            with pytest.raises(DataError, match="is not a data set"):
                Dataset.open(output)
        pack(rows, output, settings, parent=Dataset.open(root))


def _same_as_on_disk(uri: str, folder: Path, *, but: tuple[str, ...] = ("versions", "graph-K4")) -> bool:
    """Whether both hold the same files, but for some that were added later."""
    names = [path.name for path in folder.iterdir() if path.name not in but]
    assert [name for name in storage.list_folder(uri) if name not in but] == sorted(names)
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    mine = [str(name) for name in files if name.parts[0] not in but]
    return all(storage.read_bytes(f"{uri}/{name}") == (folder / name).read_bytes() for name in mine)


def test_a_data_set_in_a_store_is_the_one_on_disk_and_verifies(said: dict[str, Any], local: Path) -> None:
    assert _same_as_on_disk(f"{STORE}/set", local / "set")
    assert said["verified"] == 1


def test_rows_that_are_added_in_a_store_are_those_on_disk(said: dict[str, Any], local: Path) -> None:
    version = Dataset.open(f"{STORE}/set/versions/more")
    assert _same_as_on_disk(version.uri, local / "set" / "versions" / "more", but=())
    assert version.num_rows == 120
    assert verify(version) == 1


def test_an_interrupted_packing_into_a_store_is_no_data_set_and_goes_on(said: dict[str, Any], local: Path) -> None:
    assert f"kept in {STORE}/again/.packing" in said["interrupted"]
    assert "is not a data set" in said["before"]
    assert said["resumed"]["verifying"] == 90
    assert said["resumed"]["writing"] > 0
    assert _same_as_on_disk(f"{STORE}/again", local / "set")


def test_an_error_of_the_data_leaves_nothing_in_the_store(said: dict[str, Any]) -> None:
    assert "are no rows of the data" in said["refused"]
    assert storage.list_folder(f"{STORE}/none") == []
