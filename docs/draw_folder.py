"""A folder of drawn faces and a CSV, for the tutorial: python docs/draw_folder.py FOLDER.

Writes FOLDER/train/*.jpg with FOLDER/train.csv (30 % of the labels are wrong) and FOLDER/test/*.jpg with
FOLDER/test.csv, and FOLDER/truth.csv with the keys of the wrong labels, which no job is given.
"""

import csv
import sys
from pathlib import Path

from ldlva_dist.packing.sources.drawn_faces.faces import FacesSource

COLUMNS = ("file", "expression", "valence", "arousal")


def main() -> None:
    """Draw 3,000 faces to train on and 1,000 to test with; the same bytes each time."""
    folder = Path(sys.argv[1])
    source = FacesSource(train=3000, test=1000)
    rows: dict[str, list[tuple[str, str, float, float]]] = {"train": [], "test": []}
    wrong = []
    for part in rows:
        (folder / part).mkdir(parents=True)
    for partition in source.partitions():
        for drawn in source.read(partition):
            assert drawn.va is not None
            assert drawn.flipped is not None
            for i, key in enumerate(drawn.keys):
                name = f"{key}.jpg"
                (folder / drawn.part / name).write_bytes(drawn.images[i])
                valence, arousal = (round(float(value), 4) for value in drawn.va[i])
                rows[drawn.part].append((name, drawn.labels[i], valence, arousal))
                if drawn.flipped[i]:
                    wrong.append((name,))
    for part, lines in rows.items():
        write_csv(folder / f"{part}.csv", COLUMNS, lines)
    write_csv(folder / "truth.csv", ("file",), wrong)


def write_csv(path: Path, header: tuple[str, ...], lines: list[tuple]) -> None:
    """Write a header and its lines."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)


if __name__ == "__main__":
    main()
