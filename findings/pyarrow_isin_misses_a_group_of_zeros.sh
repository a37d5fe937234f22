#!/usr/bin/env bash
# One would guess: reading a Parquet file with a filter gives the rows that the same filter gives in memory.
# pyarrow 26.0.1, seen on 2026-11-30: a row group of floats whose values are all 0.0 is lost to `in [0.0, ...]`, without
# an error. Its statistics say min -0.0 and max 0.0, as the format wants it. Most likely (the source was not read) the
# reader takes equal bounds for the constant -0.0 and looks that up in the list by its bits. `==`, `not in`, the same file
# without statistics, and a group with another value besides are right.
# Why it matters: labels are floats as soon as a table had one missing value; where rows are sorted by class, class 0 has
# row groups of its own, and a filter on classes 0 and 1 then reads class 1 alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check pyarrow==26.0.1
"$folder/venv/bin/python" - "$folder/labels.parquet" <<'P' | tee "$folder/seen"
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

path = sys.argv[1]
labels = pa.table({"label": [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 2.0]})
label = pc.field("label")
filters = {
    "in [0, 1]": label.isin([0.0, 1.0]),
    "== 0 or == 1": (label == 0.0) | (label == 1.0),
    "not in [0, 1]": ~label.isin([0.0, 1.0]),
}
for name, wanted in filters.items():
    print(f"{name:14} in memory:", labels.filter(wanted)["label"].to_pylist())
for statistics in (True, False):
    pq.write_table(labels, path, row_group_size=2, write_statistics=statistics)
    for name, wanted in filters.items():
        found = pq.read_table(path, filters=wanted)["label"].to_pylist()
        print(f"{name:14} from a file {'with' if statistics else 'without'} statistics:", found)
pq.write_table(labels, path, row_group_size=8)
print("in [0, 1]      from a file of one row group:", pq.read_table(path, filters=filters["in [0, 1]"])["label"].to_pylist())
P
cat >"$folder/expected" <<'X'
in [0, 1]      in memory: [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
== 0 or == 1   in memory: [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
not in [0, 1]  in memory: [2.0, 2.0]
in [0, 1]      from a file with statistics: [1.0, 1.0]
== 0 or == 1   from a file with statistics: [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
not in [0, 1]  from a file with statistics: [2.0, 2.0]
in [0, 1]      from a file without statistics: [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
== 0 or == 1   from a file without statistics: [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
not in [0, 1]  from a file without statistics: [2.0, 2.0]
in [0, 1]      from a file of one row group: [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
X
diff "$folder/expected" "$folder/seen" && echo "as on 2026-11-30"
