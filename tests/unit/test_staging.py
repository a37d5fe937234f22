from pathlib import Path

import pytest

from ldlva_dist.data.staging import staged
from ldlva_dist.errors import ClusterError


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=f"the disk of {tmp_path} is full"):
        _pack_without_room(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def _pack_without_room(output: Path) -> None:
    with staged(str(output)) as stage:
        (stage.folder / "train-000000.tar").symlink_to("/dev/full")
        (stage.folder / "train-000000.tar").write_bytes(b"face")


def test_a_stage_appears_whole(tmp_path: Path) -> None:
    with staged(str(tmp_path / "set")) as stage:
        (stage.folder / "dataset.json").write_text("{}")
        assert not (tmp_path / "set").exists()
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["dataset.json"]
