"""Sources of a known layout, packed on a cluster: official splits, rows left out, broken tars."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import encode_image
from ldlva_dist.errors import DataError
from ldlva_dist.packing.passes.pack import pack
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.sources.known_sets.commands import FerPlus
from ldlva_dist.packing.sources.readers.samples import Fields
from ldlva_dist.packing.sources.readers.web_dataset import WebDatasetSource
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES

pytestmark = pytest.mark.usefixtures("cluster")
HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}


def test_ferplus_comes_with_its_own_holdout_and_lists_what_its_rule_leaves_out(tmp_path: Path) -> None:
    lines, generator = [HEADER], np.random.default_rng(0)
    for number in range(60):
        usage = ("Training", "Training", "Training", "PublicTest", "PrivateTest")[number % 5]
        votes = np.zeros(10, dtype=int)
        votes[(number // 5) % 8] = 9
        if number == 7:
            votes[:] = [5, 5, 0, 0, 0, 0, 0, 0, 0, 0]
        image = tmp_path / FOLDERS[usage] / f"fer{number:07d}.png"
        image.parent.mkdir(exist_ok=True)
        image.write_bytes(encode_image(generator.integers(0, 256, (48, 48, 1), dtype=np.uint8)))
        lines.append(",".join([usage, image.name, *map(str, votes)]) + "\n")
    (tmp_path / "fer2013new.csv").write_text("".join(lines))
    command = FerPlus(output=str(tmp_path / "set"), table=str(tmp_path / "fer2013new.csv"), images=str(tmp_path))
    packed = pack(command.source(), command.output, PackSettings(name="fer", class_names=command.classes))
    assert command.classes == (*REFERENCE_CLASSES, "Contempt")
    assert [packed.info.splits[name].rows for name in ("train", "holdout", "test")] == [35, 12, 12]
    assert packed.info.num_rejected == 0
    listed = pq.read_table(tmp_path / "set" / "rejected.parquet").to_pylist()
    assert [(row["key"], row["row"], row["reason"]) for row in listed] == [("fer0000007", 7, "left out: no majority")]
    table = Dataset.open(command.output).columns(["label", "votes"])
    assert [max(range(8), key=votes.__getitem__) for votes in table["votes"].to_pylist()] == table["label"].to_pylist()


def test_a_data_set_of_ours_is_packed_again_from_its_own_tars(faces: str, tmp_path: Path) -> None:
    tars = tuple(sorted(str(path) for path in Path(faces).glob("train-*.tar")))
    fields = Fields(label="class", valence="valence", arousal="arousal")
    settings = PackSettings(name="again", class_names=REFERENCE_CLASSES, holdout=0)
    again = str(tmp_path / "again")
    info = pack(WebDatasetSource(tars={"train": tars}, fields=fields), again, settings).info
    assert info.num_rejected == 0
    names = ["key", "label", "checksum"]
    assert Dataset.open(again).columns(names).equals(Dataset.open(faces).columns(names, rows=info.num_train))
    found_n2, given_n2 = (Dataset.open(uri).va(0, info.num_train) for uri in (again, faces))
    np.testing.assert_allclose(found_n2, given_n2, atol=6e-7)  # shards have six decimals


def test_a_tar_that_is_cut_off_stops_the_packing_or_is_listed_where_it_is_skipped(faces: str, tmp_path: Path) -> None:
    tars = sorted(Path(faces).glob("train-*.tar"))
    data = tars[-1].read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: data.index(b".json") + 1000])
    source = WebDatasetSource(
        tars={"train": (*map(str, tars[:-1]), str(tmp_path / "cut.tar"))}, fields=Fields(label="class")
    )
    settings = PackSettings(name="cut", class_names=REFERENCE_CLASSES, holdout=0)
    with pytest.raises(DataError, match=r"cut\.tar: the tar is cut off at byte .*--damaged-tars skip"):
        pack(source, str(tmp_path / "strict"), settings)
    info = pack(replace(source, skip_damaged=True), str(tmp_path / "set"), settings).info
    listed = pq.read_table(tmp_path / "set" / "rejected.parquet").to_pylist()
    assert info.num_rejected == 0
    assert ["left out: cut.tar: the tar is cut off" in row["reason"] for row in listed] == [True]
