# np.concatenate and ndarray.copy of aligned records leave the bytes between their fields as they were in memory before.
#
# One would guess: joining or copying arrays of one dtype copies their bytes, as take does; two copies of the same zeroed records
# have the same bytes, hash alike and hold nothing else.
# Seen on 2026-11-29 with numpy 2.4.6, Python 3.11: for a dtype with align=True whose itemsize is larger than the sum of its
# fields, concatenate and copy go field by field into memory that was not cleared. `==` and assert_array_equal see no
# difference; tobytes, a checksum, a view as bytes and what is sent or saved as bytes do. take copies whole items.
# Why it matters: checksums and "byte for byte equal" fail now and then, only in a busy process, and old memory is written out.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q numpy==2.4.6 >"$work/pip" 2>&1 || { cat "$work/pip"; exit 2; }
"$work/venv/bin/python" - <<'PY'
import numpy as np

kind = np.dtype([("time", "i8"), ("small", "i1", (3,))], align=True)
clean, ways = np.zeros(64, kind), {
    "concatenate": lambda: np.concatenate([clean[:32], clean[32:]]),
    "fancy index": lambda: clean[np.arange(64)],
    "take": lambda: clean.take(np.arange(64)),
    "copy": lambda: clean.copy(),
}
dirty = {}
for name, join in ways.items():
    dirty[name] = 0
    for _ in range(100):
        old = [np.full(64 * kind.itemsize, 255, np.uint8) for _ in range(20)]
        del old  # freed memory that the next array may get
        new = join()
        assert (new == clean).all()
        dirty[name] += bool(new.tobytes().strip(b"\0"))
print(f"itemsize {kind.itemsize}, fields {8 + 3}; of 100 results equal by ==, with bytes that no record had: {dirty}")
assert min(dirty["concatenate"], dirty["copy"]) > 50 and dirty["take"] == 0, dirty
PY
