"""Packing from a store into a store, by tasks on a cluster: the same bytes as on a disk, whole or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldlva_dist import storage
from ldlva_dist.dataset.images import encode_image
from testing.s3_store import Swift

FILES = ("a.parquet", "b.parquet", "c.parquet")
# In a process of its own: the workers must know the store, and those of a cluster that runs already do not.
SCRIPT = """
import json, sys
from dataclasses import replace
import ray
from ldlva_dist.packing.passes.pack import pack
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.readers.parquet import ParquetSource
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import DataError
from ldlva_dist.packing.verify import verify

local, files = sys.argv[1], sys.argv[2:]
settings = PackSettings(name="set", class_names=("calm", "glad"), holdout=0.2)
sources = [ParquetSource(files={"train": tuple(f"{at}/{name}" for name in files)}, key="name")
           for at in (local, "s3://faces/source")]
said, resumed = {}, {}

def stop(what, done, total):
    if what == "writing" and done:
        raise KeyboardInterrupt

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
pack(sources[0], f"{local}/set", settings)
pack(sources[1], "s3://faces/set", settings)
said["verified"] = verify(Dataset.open("s3://faces/set"))
try:
    pack(sources[1], "s3://faces/again", settings, progress=stop)
except KeyboardInterrupt as error:
    said["interrupted"] = str(error)
try:
    verify(Dataset.open("s3://faces/again"))
except DataError as error:
    said["before"] = str(error)
pack(sources[1], "s3://faces/again", settings, progress=lambda what, done, total: resumed.setdefault(what, done))
try:
    pack(sources[1], "s3://faces/none", replace(settings, noise="list:s3://faces/noise.txt"))
except DataError as error:
    said["refused"] = str(error)
print(json.dumps({**said, "resumed": resumed}))
"""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local")


@pytest.fixture(scope="module")
def said(swift: Swift, local: Path) -> dict[str, Any]:
    """Three files in the store and on disk, packed from both; what the script saw."""
    generator = np.random.default_rng(0)
    for name in FILES:
        columns = {
            "name": [f"{name[0]}{row}" for row in range(30)],
            "image": [encode_image(image) for image in generator.integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)],
            "expression": generator.choice(["calm", "glad"], 30),
        }
        pq.write_table(pa.table(columns), local / name)
        storage.upload(str(local / name), f"s3://faces/source/{name}")
    storage.write_bytes("s3://faces/noise.txt", b"nobody.jpg 1\n")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(local), *FILES],
        env={**os.environ, "RAY_worker_niceness": "0"},
        stdout=subprocess.PIPE,
        timeout=300,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _same_as_on_disk(uri: str, local: Path) -> bool:
    names = sorted(path.name for path in (local / "set").iterdir())
    assert storage.list_folder(uri) == names
    return all(storage.read_bytes(f"{uri}/{name}") == (local / "set" / name).read_bytes() for name in names)


def test_a_data_set_in_a_store_is_the_one_on_disk_and_verifies(said: dict[str, Any], local: Path) -> None:
    assert _same_as_on_disk("s3://faces/set", local)
    assert said["verified"] == 0


def test_an_interrupted_packing_into_a_store_is_no_data_set_and_goes_on(said: dict[str, Any], local: Path) -> None:
    assert "kept in s3://faces/again/.packing" in said["interrupted"]
    assert "is not a data set" in said["before"]
    assert said["resumed"]["verifying"] == 90
    assert said["resumed"]["writing"] > 0
    assert _same_as_on_disk("s3://faces/again", local)


def test_an_error_of_the_data_leaves_nothing_in_the_store(said: dict[str, Any]) -> None:
    assert "are no rows of the data" in said["refused"]
    assert storage.list_folder("s3://faces/none") == []
