import numpy as np
import pytest

from ldlva_dist.bank.records import BankSpec, Write
from ldlva_dist.bank.wire import HEADER, BankCall

SPEC = BankSpec(num_classes=3, feature_width=5)
RNG = np.random.default_rng(0)


def written(rows: int) -> Write:
    return Write(
        step=2**40,
        positions=RNG.integers(0, 2**31, rows, dtype=np.int32),
        ids=RNG.integers(0, 2**62, rows),
        rows=RNG.integers(0, 256, (rows, SPEC.record.itemsize), dtype=np.uint8),
    )


@pytest.mark.parametrize("samples", [0, 3])
@pytest.mark.parametrize("ids", [0, 4])
@pytest.mark.parametrize("write", [None, written(0), written(1), written(5)])
@pytest.mark.parametrize("read_step", [None, 0, 7])
def test_a_call_comes_out_as_it_was_packed(samples, ids, write, read_step):
    call = BankCall(
        token="0123456789abcdef" * 2,
        rank=3,
        write=write,
        samples=RNG.integers(0, 2**62, samples),
        graph=11,
        read_step=read_step,
        ids=RNG.integers(0, 2**62, ids),
    )
    seen = BankCall.unpack(call.pack(), SPEC)
    for name in ("token", "rank", "graph", "read_step"):
        assert getattr(seen, name) == getattr(call, name)
    np.testing.assert_array_equal(seen.samples, call.samples)
    np.testing.assert_array_equal(seen.ids, call.ids)
    assert (seen.write is None) == (write is None)
    if write and seen.write:
        assert seen.write.step == write.step
        for name in ("positions", "ids", "rows"):
            ours, theirs = getattr(seen.write, name), getattr(write, name)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def test_a_call_is_no_longer_than_what_it_says():
    call = BankCall(
        token="a", rank=0, write=written(2), samples=np.arange(3)[::-1], ids=np.arange(8, dtype=np.int32)[::2]
    )
    assert len(call.pack()) == HEADER.size + 8 * (3 + 4 + 2) + 2 * (SPEC.record.itemsize + 4)
    seen = BankCall.unpack(call.pack(), SPEC)
    assert (seen.samples.tolist(), seen.ids.tolist()) == ([2, 1, 0], [0, 2, 4, 6])
