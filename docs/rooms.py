"""The picture of the rooms, docs/pictures/rooms.svg, from the imports and the layers: python docs/rooms.py.

An arrow says that a room imports from another. Arrows that follow from others (a imports b, b imports c, so a to c) are
left out, so that the rest can be read.
"""

import tomllib
from html import escape
from itertools import product
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGE = "ldlva_dist"
PICTURE = ROOT / "docs" / "pictures" / "rooms.svg"
WIDTH, BOX, HEIGHT, GAP, TOP = 1000, 190, 40, 42, 14


def main() -> None:
    """Draw, and write the file."""
    layers = read_layers()
    PICTURE.write_text(draw(layers, essential(read_arrows([room for layer in layers for room in layer]))))


def read_layers() -> list[list[str]]:
    """The rooms of each layer, highest first, as the import contract has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = next(c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return [[room.strip() for room in layer.split(":")] for layer in contract["layers"]]


def read_arrows(rooms: list[str]) -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports from the second."""
    graph = grimp.build_graph(PACKAGE)
    arrows = set()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            start, end = (f"{name}..".split(".")[1] for name in (importer, imported))
            if start != end and start in rooms and end in rooms:
                arrows.add((start, end))
    return arrows


def essential(arrows: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The arrows that no longer way makes."""
    reach = set(arrows)
    rooms = {room for arrow in arrows for room in arrow}
    for middle, start, end in product(rooms, repeat=3):
        if (start, middle) in reach and (middle, end) in reach:
            reach.add((start, end))
    return sorted(
        (start, end)
        for start, end in arrows
        if not any((start, middle) in reach and (middle, end) in reach for middle in rooms)
    )


def draw(layers: list[list[str]], arrows: list[tuple[str, str]]) -> str:
    """The picture as SVG: one row of boxes a layer."""
    places = {}
    for row, layer in enumerate(layers):
        step = WIDTH / len(layer)
        for column, room in enumerate(layer):
            places[room] = (round(step * (column + 0.5)), TOP + row * (HEIGHT + GAP))
    height = TOP * 2 + len(layers) * (HEIGHT + GAP) - GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fcfcfa"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#8a94a3"/></marker></defs>',
    ]
    for start, end in arrows:
        (x1, y1), (x2, y2) = places[start], places[end]
        y1, bend = y1 + HEIGHT, GAP * 0.7
        lines.append(
            f'<path d="M{x1} {y1}C{x1} {y1 + bend:g} {x2} {y2 - bend:g} {x2} {y2 - 1}" fill="none" '
            'stroke="#8a94a3" stroke-width="1.2" marker-end="url(#tip)"/>'
        )
    for room, (x, y) in places.items():
        width = min(BOX, WIDTH / max(len(layer) for layer in layers) - 20)
        lines.append(
            f'<rect x="{x - width / 2:g}" y="{y}" width="{width:g}" height="{HEIGHT}" rx="6" fill="#fff" '
            'stroke="#2a6fbb" stroke-width="1.4"/>'
            f'<text x="{x}" y="{y + 26}" text-anchor="middle" font-size="17" fill="#1b1f27">{escape(room)}</text>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
