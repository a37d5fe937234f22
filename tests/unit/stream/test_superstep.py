"""Bad rows of a window: found, replaced by the same rows for everybody, listed, counted against the budget."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from ldlva_dist.dataset.images import decode, encode_image
from ldlva_dist.errors import DataError
from ldlva_dist.stream.plan import Plan, Run
from ldlva_dist.stream.quarantine import BadRow, Quarantine, read_quarantine
from ldlva_dist.stream.superstep import GAP_BYTES, READ_BYTES, Columns, Window, fetch, read_together

ROWS, LANE_ROWS = 24, 6


@pytest.fixture
def shard(tmp_path: Path) -> tuple[Path, Columns]:
    """One shard of 24 images, and its columns of the manifest."""
    path, images = (
        tmp_path / "train-000000.tar",
        [encode_image(np.full((16, 16, 3), 10 * i, np.uint8)) for i in range(ROWS)],
    )
    images[7] = b"\xff\xd8 no image"  # as it was packed: the checksum is right
    with tarfile.open(path, "w") as tar:
        for i, image in enumerate(images):
            member = tarfile.TarInfo(f"{i}.jpg")
            member.size = len(image)
            tar.addfile(member, io.BytesIO(image))
    with tarfile.open(path) as tar:
        offsets = [member.offset_data for member in tar]
    columns = {
        "offset": np.array(offsets),
        "size": np.array([len(image) for image in images]),
        "checksum": np.array([crc32(image) for image in images]),
        "label": np.arange(ROWS) % 3,
        "va": np.zeros((ROWS, 2), np.float32),
    }
    return path, columns


def _window(shard: tuple[Path, Columns]) -> Window:
    """Four lanes of six rows."""
    path, columns = shard
    plan = Plan((ROWS,), seed=0, batch_size=4, chunk_rows=LANE_ROWS)

    def columns_of(ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return {name: column[ids] for name, column in columns.items()}

    runs = [run for lane in range(4) for run in plan.window(lane, 0)[0]]
    return fetch(plan, runs, LANE_ROWS, [str(path)], columns_of)


def _spoil(shard: tuple[Path, Columns], row: int) -> None:
    data = bytearray(shard[0].read_bytes())
    data[int(shard[1]["offset"][row]) + 5] ^= 1
    shard[0].write_bytes(data)


def test_rows_come_with_the_columns_of_their_ids(shard: tuple[Path, Columns]) -> None:
    window = _window(shard)
    assert sorted(window.columns["id"]) == list(range(ROWS))
    assert not window.bad
    for row, sample in enumerate(window.columns["id"].tolist()):
        assert window.columns["label"][row] == sample % 3
        if sample != 7:
            assert abs(int(decode(window.data[row], 3).mean()) - 10 * sample) <= 1


def _reads_of_a_superstep(image_bytes: int) -> tuple[list[Run], list[list[int]]]:
    """All lanes' runs of the first superstep, from shards of 40 rows, and which of them are read together."""
    plan = Plan((40,) * 103, seed=0, batch_size=64, chunk_rows=128)
    runs = [run for lane in range(64) for run in plan.window(lane, 0)[0]]
    begins = [run.first_id % 40 * image_bytes for run in runs]
    ends = [begin + run.rows * image_bytes for run, begin in zip(runs, begins, strict=True)]
    return runs, read_together([f"{run.shard}.tar" for run in runs], begins, ends)


def test_parts_of_one_chunk_that_several_lanes_take_are_read_once() -> None:
    runs, reads = _reads_of_a_superstep(1000)
    assert sorted(run for read in reads for run in read) == list(range(len(runs)))
    assert [min(read) for read in reads] == sorted(min(read) for read in reads)
    assert [len({runs[run].shard for run in read}) for read in reads] == [1] * len(reads)
    assert len(reads) == len({run.shard for run in runs}) < len(runs)


def test_reads_that_are_joined_stay_under_the_limit_and_near_each_other() -> None:
    runs, reads = _reads_of_a_superstep(READ_BYTES // 30)
    assert any(len(read) > 1 for read in reads)
    for read in (read for read in reads if len(read) > 1):
        rows = {id for run in read for id in range(runs[run].first_id, runs[run].first_id + runs[run].rows)}
        assert max(rows) - min(rows) < max(30, *(runs[run].rows for run in read))
    assert read_together(["a"] * 3, [0, 1000 + GAP_BYTES, 3000 + 2 * GAP_BYTES], [1000, 2000 + GAP_BYTES, 10**6]) == [
        [0, 1],
        [2],
    ]


def test_a_damaged_row_is_replaced_by_the_next_good_one_of_its_lane(shard: tuple[Path, Columns]) -> None:
    before = _window(shard).columns["id"]
    _spoil(shard, int(before[11]))  # the last row of the second lane
    _spoil(shard, int(before[6]))
    window = _window(shard)
    assert set(window.bad) == {6, 11}
    np.testing.assert_array_equal(window.good(np.array([5, 6, 7, 11, 12])), [5, 7, 7, 7, 12])
    assert not len(window.lost_lanes())
    found = window.describe(11)
    assert (found.id, found.shard) == (before[11], str(shard[0]))
    assert "checksum" in found.reason


def test_what_cannot_be_decoded_is_found_and_what_takes_its_place_is_checked_too(shard: tuple[Path, Columns]) -> None:
    window = _window(shard)
    row = window.columns["id"].tolist().index(7)
    (found,) = window.find_undecodable(np.arange(ROWS), channels=3)
    assert found.id == 7
    assert "cannot be decoded" in found.reason
    (replacement,) = window.good(np.array([row]))
    assert replacement // LANE_ROWS == row // LANE_ROWS
    assert replacement != row


def test_of_a_truncated_shard_the_rows_before_the_end_are_used(shard: tuple[Path, Columns]) -> None:
    with open(shard[0], "r+b") as file:
        file.truncate(int(shard[1]["offset"][20]) + 3)
    window = _window(shard)
    assert sorted(window.columns["id"][list(window.bad)]) == [20, 21, 22, 23]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("offset", value) for value in (-512, 1 << 40, (1 << 63) - 1, -(1 << 63))),
        *(("size", value) for value in (0, -1, (1 << 31) - 1)),
    ],
)
def test_a_row_that_cannot_be_where_the_manifest_has_it_is_one_bad_row(
    shard: tuple[Path, Columns], name: str, value: int
) -> None:
    before = _window(shard)
    path, columns = shard
    columns[name][5] = value
    window = _window((path, columns))
    assert window.columns["id"][list(window.bad)].tolist() == [5]
    same = [row for row in range(ROWS) if row not in window.bad]
    assert [bytes(window.data[row]) for row in same] == [bytes(before.data[row]) for row in same]


def test_a_missing_shard_loses_all_lanes(shard: tuple[Path, Columns]) -> None:
    shard[0].unlink()
    window = _window(shard)
    np.testing.assert_array_equal(window.lost_lanes(), range(4))
    with pytest.raises(DataError, match=r"no row of a window of 6 can be read.*train-000000\.tar"):
        window.good(np.arange(ROWS))


def _bad(sample: int) -> BadRow:
    return BadRow(id=sample, shard="train-000000.tar", offset=512, reason="changed")


def test_the_quarantine_counts_a_row_once_and_goes_on_with_its_list(tmp_path: Path) -> None:
    uri = str(tmp_path / "quarantine.parquet")
    first = Quarantine(num_rows=1000, max_share=0.002, uri=uri)
    first.add([_bad(5)])
    first.add([_bad(5), _bad(3)])
    again = Quarantine(num_rows=1000, max_share=0.002, uri=uri)
    again.add([_bad(3), _bad(5)])
    assert [row.id for row in read_quarantine(uri)] == [3, 5]
    with pytest.raises(
        DataError, match=r"3 bad rows of 1000 are more than data\.max_bad_share=0\.002.*quarantine\.par"
    ):
        again.add([_bad(8)])
    assert [row.id for row in read_quarantine(uri)] == [3, 5, 8]


def test_without_a_list_the_last_row_is_named() -> None:
    with pytest.raises(DataError, match=r"the last is row 8, at byte 512 of train-000000\.tar: changed"):
        Quarantine(num_rows=1000, max_share=0.0, uri=None).add([_bad(8)])
