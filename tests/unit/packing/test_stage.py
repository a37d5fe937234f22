"""Where a data set is packed: whole or not at all."""

from pathlib import Path

import pytest

from ldlva_dist import storage
from ldlva_dist.errors import ClusterError, DataError, SettingError
from ldlva_dist.packing.passes.stage import full_disk_said, stage_of


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=f"the disk of {tmp_path} is full"), full_disk_said(str(tmp_path / "stage")):
        Path("/dev/full").write_bytes(b"face")


def test_a_data_set_appears_whole_and_its_pieces_go(tmp_path: Path) -> None:
    stage = stage_of(str(tmp_path / "set"))
    assert stage.begin("a") == frozenset()
    stage.write(storage.join(stage.final, "dataset.json"), b"{}")
    stage.write_json("piece.json", 1)
    assert not (tmp_path / "set").exists()
    stage.publish()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["dataset.json"]


def test_pieces_of_the_same_packing_are_found_again_and_others_removed(tmp_path: Path) -> None:
    stage = stage_of(str(tmp_path / "set"))
    stage.begin("a")
    stage.write_json("piece.json", 1)
    assert "piece.json" in stage.begin("a")
    assert stage.begin("b") == frozenset()


def test_a_late_task_does_not_bring_a_given_up_packing_back(tmp_path: Path) -> None:
    stage = stage_of(str(tmp_path / "set"))
    stage.begin("a")
    stage.discard()
    with pytest.raises(DataError, match="was given up"):
        stage.write_json("piece.json", 1)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_appeared_meanwhile_is_left_alone(tmp_path: Path) -> None:
    stage = stage_of(str(tmp_path / "set"))
    stage.begin("a")
    stage.write(storage.join(stage.final, "dataset.json"), b"{}")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").write_bytes(b"")
    with pytest.raises(SettingError, match="--output must not exist"):
        stage.publish()
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["mine"]
