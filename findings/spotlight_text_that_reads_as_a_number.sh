#!/usr/bin/env bash
# Spotlight shows the file name "12_34" as 1234, in a column that it says to be of texts.
#
# One would guess: a column of strings is shown as it is, above all where Spotlight itself infers the type str for it.
# Seen on 2026-11-29 with renumics-spotlight 1.8.2: every text that Python's ast.literal_eval takes for a value becomes that
# value (pandas.py: "arrays and lists are read as literal strings, try to interpret them"): 12_34 is 1234, 0x1f is 31, 1e5 is
# 100000.0, None is nothing.
# Why it matters: names of images and classes that were read out of Spotlight do not name the same things any more.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q renumics-spotlight==1.8.2 >"$work/pip" 2>&1 || { cat "$work/pip"; exit 2; }
cd "$work"
HOME="$work" "$work/venv/bin/python" - 2>"$work/log" <<'P' || { tail -3 "$work/log"; exit 1; }
import pandas
import renumics.spotlight.app
from renumics.spotlight.data_source.registry import create_datasource
from renumics.spotlight.data_store import DataStore

names = ["face_1", "face_2", "face_3", "12_34", "0x1f", "1e5", "None"]
store = DataStore(create_datasource(pandas.DataFrame({"name": names})), {})
shown = store.get_converted_values("name")
print(f"written: {names}\nshown, as {store.dtypes['name']}: {shown}")
if (str(store.dtypes["name"]), shown) != ("str", [*names[:3], "1234", "31", "100000.0", None]):
    raise SystemExit("changed: texts are shown otherwise")
P
