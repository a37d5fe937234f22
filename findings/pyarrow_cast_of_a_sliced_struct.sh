#!/usr/bin/env bash
# One would guess: casting a column to the type that it has gives an equal, valid column, whatever slice of a batch it is.
# pyarrow 26.0.1, seen on 2026-11-28: where a struct has a field of type null (Hugging Face's image struct {bytes, path}
# with no path at all is stored so) and the array is a slice that does not begin at row 0, `cast` gives a struct whose
# null field is shorter than the struct, without an error. It prints as the right values; `validate` and what checks
# lengths later refuse it.
# Why it matters: readers that cut batches by row and then cast them to plain types fail on some files and some stretches
# only. Cast first, slice after.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check pyarrow==26.0.1
"$folder/venv/bin/python" - <<'P' | tee "$folder/seen"
import pyarrow as pa

kind = pa.struct([("bytes", pa.binary()), ("path", pa.null())])
column = pa.array([{"bytes": b"face", "path": None} for _ in range(16)], kind)


def said(array):
    try:
        array.validate()
    except pa.ArrowInvalid as error:
        return str(error)
    return "valid"


print("slice from row 0, cast to its own type:", said(column.slice(0, 9).cast(kind)))
print("slice from row 5, as it is:", said(column.slice(5, 9)))
print("slice from row 5, cast to its own type:", said(column.slice(5, 9).cast(kind)))
print("cast first, slice after:", said(column.cast(kind).slice(5, 9)))
P
cat >"$folder/expected" <<'X'
slice from row 0, cast to its own type: valid
slice from row 5, as it is: valid
slice from row 5, cast to its own type: Struct child array #1 has length smaller than expected for struct array (9 < 14)
cast first, slice after: valid
X
diff "$folder/expected" "$folder/seen" && echo "as on 2026-11-28"
