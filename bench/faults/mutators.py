"""Ways to damage a file: bytes of any, values of JSON, columns of parquet, cells of arrays. Drawn from a generator.

Every mutator takes the file's bytes and returns others; what it did is a few words for the record.
"""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Draw = np.random.Generator
Mutator = Callable[[bytes, Draw], tuple[bytes, str]]

ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    7,
    2**31,
    2**63,
    10**30,
    0.5,
    -0.0,
    float("nan"),
    float("inf"),
    "",
    "text",
    "0",
    "a\nb",
    "nul\0",
    "../..",
    "[/red]",
    "x" * 300,
    [],
    [1, "a", None],
    {},
    {"a": {}},
)


def damage_bytes(data: bytes, draw: Draw) -> tuple[bytes, str]:
    """Flip, cut, empty, overwrite, move, double or add bytes, or put another file in the place."""
    kind = str(draw.choice(["flip", "cut", "empty", "zeros", "noise", "halves", "double", "tail", "other file"]))
    at = int(draw.integers(0, max(len(data), 1)))
    length = int(draw.integers(1, max(2, min(4096, len(data) + 1))))
    piece, half = data[at : at + length], len(data) // 2
    others = [b"PAR1", b"{}", b"[]", b"null", b"\x93NUMPY", b"PK\x03\x04", b"\x80\x04."]
    changed = {
        "flip": _flipped(data, draw),
        "cut": data[:at],
        "empty": b"",
        "zeros": data[:at] + bytes(len(piece)) + data[at + length :],
        "noise": data[:at] + draw.bytes(len(piece)) + data[at + length :],
        "halves": data[half:] + data[:half],
        "double": data[:at] + piece + data[at:],
        "tail": data + draw.bytes(length),
        "other file": others[int(draw.integers(len(others)))],
    }
    return changed[kind], kind


def _flipped(data: bytes, draw: Draw) -> bytes:
    """The same with one to eight bits turned over."""
    changed = bytearray(data)
    for place in draw.integers(0, max(len(data), 1), int(draw.integers(1, 9))) if data else ():
        changed[place] ^= 1 << int(draw.integers(0, 8))
    return bytes(changed)


def damage_json(data: bytes, draw: Draw) -> tuple[bytes, str]:
    """Put an odd value, or a sibling's, in a place; leave a name out, add one, say one twice; nest deeply."""
    tree = json.loads(data)
    places = _places(tree)
    parent, key = places[int(draw.integers(len(places)))]
    kind = str(draw.choice(["value", "value", "value", "sibling", "gone", "unknown", "twice", "deep", "other number"]))
    if kind == "value":
        parent[key] = ODD_VALUES[int(draw.integers(len(ODD_VALUES)))]
    elif kind == "sibling":
        other_parent, other_key = places[int(draw.integers(len(places)))]
        parent[key] = json.loads(json.dumps(other_parent[other_key]))
    elif kind == "gone":
        del parent[key]
    elif kind == "unknown":
        (parent if isinstance(parent, dict) else tree)["a_name_of_tomorrow"] = 1
    elif kind == "other number" and isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
        parent[key] = parent[key] * int(draw.choice([-1, 2, 1000])) + int(draw.integers(-1, 2))
    text = json.dumps(tree, indent=1)
    if kind == "twice" and isinstance(parent, dict):
        text = text.replace("{", "{" + f"{json.dumps(str(key))}: {json.dumps(ODD_VALUES[int(draw.integers(11))])}, ", 1)
    elif kind == "deep":
        text = "[" * 100_000
    return text.encode(), f"{kind} at {key!r}"


def damage_lines(data: bytes, draw: Draw) -> tuple[bytes, str]:
    """Damage one line of a file of JSON lines, or the order of its lines."""
    lines = data.splitlines(keepends=True)
    at = int(draw.integers(len(lines)))
    kind = str(draw.choice(["value", "bytes", "twice", "gone", "no end", "blank"]))
    if kind == "value":
        lines[at], what = damage_json(lines[at], draw)
        lines[at] = lines[at].replace(b"\n", b"") + b"\n"
        return b"".join(lines), f"line {at}: {what}"
    if kind == "bytes":
        lines[at], what = damage_bytes(lines[at], draw)
        return b"".join(lines), f"line {at}: {what}"
    if kind == "twice":
        lines.insert(at, lines[at])
    elif kind == "gone":
        del lines[at]
    elif kind == "no end":
        lines[at] = lines[at][: len(lines[at]) // 2]
    else:
        lines.insert(at, b"\n")
    return b"".join(lines), f"line {at}: {kind}"


def damage_parquet(data: bytes, draw: Draw) -> tuple[bytes, str]:
    """Write the table again with another cell, type, order, number of rows, or other row groups."""
    table = pq.read_table(io.BytesIO(data))
    name = str(draw.choice(table.column_names))
    at = table.column_names.index(name)
    kind = str(draw.choice(["cell", "cell", "cell", "cells swapped", "type", "gone", "row gone", "order", "groups"]))
    if kind == "cell":
        cells = table[name].to_pylist()
        row = int(draw.integers(len(cells)))
        cells[row] = _odd_cell(cells[row], draw)
        table = table.set_column(at, name, _array(cells, table.schema.field(name).type))
    elif kind == "cells swapped":
        cells = table[name].to_pylist()
        one, two = draw.integers(0, len(cells), 2)
        cells[one], cells[two] = cells[two], cells[one]
        table = table.set_column(at, name, _array(cells, table.schema.field(name).type))
    elif kind == "type":
        table = table.set_column(at, name, _other_type(table[name], draw))
    elif kind == "gone":
        table = table.drop_columns([name])
    elif kind == "row gone":
        row = int(draw.integers(len(table)))
        table = pa.concat_tables([table.slice(0, row), table.slice(row + 1)])
    elif kind == "order":
        table = table.take(pa.array(draw.permutation(len(table))))
    buffer = io.BytesIO()
    groups = int(draw.choice([7, 64, 1 << 20])) if kind == "groups" else 65_536
    pq.write_table(table, buffer, row_group_size=groups)
    return buffer.getvalue(), f"{kind} {name}"


def damage_array(data: bytes, draw: Draw) -> tuple[bytes, str]:
    """Write an .npy again with odd cells, another type, shape or order of its cells."""
    array = np.load(io.BytesIO(data), allow_pickle=False).copy()
    kind = str(draw.choice(["cell", "cell", "type", "shape", "transposed", "rows swapped"]))
    if kind == "cell":
        odd = [-1, 10**6, 2**31 - 1] if array.dtype.kind == "i" else [np.nan, -1.0, np.inf]
        array[tuple(int(draw.integers(n)) for n in array.shape)] = odd[int(draw.integers(3))]
    elif kind == "type":
        array = array.astype(str(draw.choice(["float64", "int8", "complex64", "S4", ">i4"])))
    elif kind == "shape":
        array = array.reshape(-1)
    elif kind == "transposed":
        array = array.T
    else:
        array[[0, -1]] = array[[-1, 0]]
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue(), kind


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (parent, key) of a JSON tree."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    return [place for key, value in items for place in ((tree, key), *_places(value))]


def _odd_cell(cell: Any, draw: Draw) -> Any:
    if isinstance(cell, str):
        return [None, "", "x" * 300, "nul\0", "../up", cell + "a"][int(draw.integers(6))]
    if isinstance(cell, list):
        return [None, [], [-1.0] * len(cell), cell[:-1]][int(draw.integers(4))]
    if isinstance(cell, float):
        return [None, float("nan"), 2.0, 1e30, -cell][int(draw.integers(5))]
    return [None, -1, -512, 7, 2**31 - 1, 2**40][int(draw.integers(6))]


def _array(cells: list[Any], kind: pa.DataType) -> pa.Array:
    """An array of the column's type; text where that cannot hold the cells."""
    try:
        return pa.array(cells, kind)
    except (pa.ArrowInvalid, OverflowError, TypeError):
        return pa.array([None if cell is None else str(cell) for cell in cells])


def _other_type(column: pa.ChunkedArray, draw: Draw) -> pa.ChunkedArray | pa.Array:
    """The same values in another type, where the type can hold them; text otherwise."""
    kinds = [pa.float64(), pa.large_string(), pa.string_view(), pa.string(), pa.int64(), pa.uint64(), pa.bool_()]
    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    try:
        return plain.cast(kinds[int(draw.integers(len(kinds)))])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array([str(value) for value in plain.to_pylist()])
