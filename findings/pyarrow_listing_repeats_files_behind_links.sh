#!/usr/bin/env bash
# What one would guess: a recursive listing of a folder names each file once; a symbolic link to a folder above is
#   either not followed or followed once, as find, os.walk, rglob and du do.
# Versions: pyarrow 26.0.1, Python 3.11, Linux. Date: 2026-11-28.
# Behaviour: FileSelector(recursive=True) follows links of folders without looking where they lead. Of one file beside a
#   link to the folder above it lists 41, one for each of the 40 links that Linux allows in a path, without an error.
#   pyarrow.dataset, which lists the same way, reads a parquet file 41 times: 41 times the rows.
# Why it matters: one stray link (made by a notebook or a build) multiplies a data set, and copies of one sample stand in
#   training and test part under different paths.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pyarrow==26.0.1
"$folder/venv/bin/python" - "$folder/set" <<'P'
import os, sys
import pyarrow as pa, pyarrow.dataset as ds, pyarrow.parquet as pq
from pyarrow import fs

root = sys.argv[1]
os.makedirs(f"{root}/part")
pq.write_table(pa.table({"row": [1, 2, 3]}), f"{root}/part/0.parquet")
os.symlink("..", f"{root}/part/up")
infos = fs.LocalFileSystem().get_file_info(fs.FileSelector(root, recursive=True))
files = [info.path for info in infos if info.type == fs.FileType.File]
walked = [name for _, _, names in os.walk(root, followlinks=False) for name in names]
rows = ds.dataset(root, format="parquet").count_rows()
print(f"pyarrow {pa.__version__}: os.walk finds {len(walked)} file, FileSelector {len(files)}; a dataset has {rows} rows of 3")
sys.exit(0 if (len(walked), len(files), rows) == (1, 41, 123) else 1)
P
