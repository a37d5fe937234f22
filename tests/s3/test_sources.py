"""Sources in a store give the rows that they give on a disk."""

import io
import shlex
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from ldlva_dist import storage
from ldlva_dist.dataset.images import encode_image
from ldlva_dist.packing.passes.pass1_survey import made_images_name
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.passes.stage import stage_of
from ldlva_dist.packing.sources.commands import Command
from ldlva_dist.packing.sources.common import Common
from ldlva_dist.packing.sources.known_sets.affectnet_folders import AffectNetFoldersSource
from ldlva_dist.packing.sources.known_sets.raf_db import RafDbSource
from ldlva_dist.packing.sources.readers.class_folders import ClassFoldersSource
from ldlva_dist.packing.sources.readers.samples import Fields
from ldlva_dist.packing.sources.readers.web_dataset import WebDatasetSource, tars_of
from ldlva_dist.packing.sources.rows import Partition, Rows, Source, all_rows
from testing.layouts import LAYOUTS
from testing.local_packing import pack_here, survey_here

pytestmark = pytest.mark.usefixtures("swift")
IMAGE = encode_image(np.zeros((8, 8, 3), dtype=np.uint8))
BUCKET = "s3://faces/sources"


def _npy(value: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(value))
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in (("1.jpg", IMAGE), ("1.cls", b"3"), ("2.jpg", IMAGE), ("3.pkl", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()[:3000]


FILES = {
    "folders/Angry/x.jpg": IMAGE,
    "folders/Happy/y.jpg": IMAGE,
    "folders/Happy/notes.txt": b"",
    "raf/list.txt": b"train_1.jpg 5\ntest_1.jpg 1\n",
    "affect/images/7.jpg": IMAGE,
    "affect/annotations/7_exp.npy": _npy("1"),
    "affect/annotations/7_val.npy": _npy("0.5"),
    "affect/annotations/7_aro.npy": _npy("-0.5"),
    "tars/a.tar": _tar(),
}
PACKED = {"fer2013": True, "expw": True, "yolo": True, "affectnet-plus": False}
"""Layouts that are packed, too; whether their images are made by the source."""
SOURCES: dict[str, Callable[[str], Source]] = {
    "folders": lambda root: ClassFoldersSource(folders={"train": f"{root}/folders"}),
    "rafdb": lambda root: RafDbSource(labels=f"{root}/raf/list.txt", images=f"{root}/raf"),
    "affectnet": lambda root: AffectNetFoldersSource(folders={"train": f"{root}/affect"}),
    "tars": lambda root: WebDatasetSource(
        tars={"train": tuple(tars_of([f"{root}/tars"]))}, fields=Fields(), skip_damaged=True
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_in_a_store_is_the_one_on_disk(name: str, tmp_path: Path) -> None:
    root = f"{BUCKET}/layouts/{name}"
    LAYOUTS[name].draw(tmp_path)
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        storage.write_bytes(f"{root}/{path.relative_to(tmp_path)}", path.read_bytes())
    stored, local = (_layout(name, place) for place in (root, str(tmp_path)))
    found = _facts(stored.source(), root)
    assert found
    assert found == _facts(local.source(), str(tmp_path))
    if name in PACKED:
        _pack_both(stored, local, tmp_path, is_made=PACKED[name])


def _pack_both(stored: Common, local: Common, folder: Path, *, is_made: bool) -> None:
    """Pack in the store, where images that the source makes are made once however often it is resumed, and on disk."""
    stated = local.stated()
    settings = PackSettings(name="set", class_names=stated.names, numbers=stated.numbers, max_rejected=0.2)
    pack_here(local.source(), folder / "set", settings)
    source, output = stored.source(), f"{BUCKET}/packed/{folder.name}"
    survey_here(source, output, settings)
    pieces = stage_of(output).begin("test")
    assert (made_images_name(0) in pieces) == is_made
    if is_made:
        partitions = source.partitions()
        source = _Listed(partitions, source.describe())
    pack_here(source, output, settings, surveyed=True)
    names = sorted(path.name for path in (folder / "set").iterdir())
    assert storage.list_folder(output) == names
    for file in set(names) - {"rejected.parquet"}:  # it names places
        assert storage.read_bytes(f"{output}/{file}") == (folder / "set" / file).read_bytes(), file


@dataclass(frozen=True)
class _Listed:
    """A source of which no image can be read any more."""

    listed: Sequence[Partition]
    described: dict[str, Any]

    def partitions(self) -> Sequence[Partition]:
        return self.listed

    def read(self, partition: Partition) -> Iterator[Rows]:
        raise AssertionError(f"{partition} was read again")

    def describe(self) -> dict[str, Any]:
        return self.described


def _layout(name: str, root: str) -> Common:
    arguments = shlex.split(LAYOUTS[name].arguments.format(root=root))
    command = tyro.cli(Command, args=[*arguments, "--output", "set"])
    assert isinstance(command, Common)
    return command


def _facts(source: Source, root: str) -> list[tuple[object, ...]]:
    return [
        (rows.part, key, str(image).removeprefix(root), label, reason, *map(str, va))
        for rows in all_rows(source)
        for key, image, label, reason, va in zip(
            rows.keys, rows.images, rows.labels, rows.reasons or [None] * len(rows.keys), rows.va, strict=True
        )
    ]


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_in_a_store_is_the_one_on_disk(name: str, tmp_path: Path) -> None:
    for path, data in FILES.items():
        storage.write_bytes(f"{BUCKET}/{path}", data)
        storage.write_bytes(str(tmp_path / path), data)
    found = _facts(SOURCES[name](BUCKET), BUCKET)
    assert found
    assert found == _facts(SOURCES[name](str(tmp_path)), str(tmp_path))
