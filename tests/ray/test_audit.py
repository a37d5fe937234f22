"""One command from a folder of pictures of any kind, without valence-arousal, to the page and the list."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ldlva_dist.checkpoint.checkpoint import Checkpoint
from testing.clusters.job_scripts import Scripts

pytestmark = pytest.mark.usefixtures("cluster")

ROWS, SIDE = 600, 24
NAMES = ("brick", "grass", "water")
TWIN = 7
"""The last picture is this one's, under another name."""


def picture(kind: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Stripes across, stripes along, or squares, in some colours, with noise."""
    y, x = np.mgrid[:SIDE, :SIDE] + generator.integers(0, 8, 2)[:, None, None]
    pattern = [(y // 4) % 2, (x // 4) % 2, (x // 4 + y // 4) % 2][kind]
    colors = generator.integers(60, 196, (2, 3))
    noisy = colors[pattern] + generator.normal(0, 25, (SIDE, SIDE, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A folder of PNG with a CSV, and the names of those with a wrong label."""
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    (folder / "png").mkdir()
    kinds = generator.integers(0, len(NAMES), ROWS)
    wrong = generator.random(ROWS) < 0.2
    labels = (kinds + wrong * generator.integers(1, len(NAMES), ROWS)) % len(NAMES)
    for i, kind in enumerate(kinds.tolist()):
        Image.fromarray(picture(kind, generator)).save(folder / "png" / f"p{i:03d}.png")
    twin = (folder / "png" / f"p{TWIN:03d}.png").read_bytes()
    (folder / "png" / f"p{ROWS - 1:03d}.png").write_bytes(twin)
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("name", "label"), *((f"p{i:03d}.png", NAMES[k]) for i, k in enumerate(labels))])
    return folder, {f"p{i:03d}" for i in np.flatnonzero(wrong[:-1]).tolist()}


def test_pictures_with_labels_become_a_page_and_a_list_by_one_command(
    pictures: tuple[Path, set[str]], scripts: Scripts, tmp_path: Path
) -> None:
    folder, wrong = pictures
    audit = tmp_path / "audit"
    command = ["audit", str(folder / "labels.csv"), "--output", str(audit), "--training.epochs", "14"]
    done = scripts.run(*command, "--model.width", "8")
    assert done.code == 0, done.stderr
    assert "neighbours: in the network's own features" in done.stdout
    for name in (
        "run/report.html",
        "run/uncertainty.parquet",
        "suspects.csv",
        "duplicates.csv",
    ):
        assert (audit / name).stat().st_size > 0, name

    with open(audit / "suspects.csv", newline="") as file:
        suspects = [row["key"] for row in csv.DictReader(file)]
    first = suspects[: len(wrong)]
    assert sum(key in wrong for key in first) / len(first) > 0.8
    with open(audit / "duplicates.csv", newline="") as file:
        assert [row["key"] for row in csv.DictReader(file)] == [f"p{TWIN:03d}", f"p{ROWS - 1:03d}"]
    assert '"copies": {"groups": [{"count": 2,' in (audit / "run" / "report.html").read_text()
    lines = json.loads((audit / "audit.json").read_text())["lines"]
    assert done.stdout.splitlines()[-len(lines) :] == lines
    assert f"audited: {ROWS} images of 3 classes" in lines[0]

    before = {path: path.stat().st_mtime_ns for path in audit.rglob("*")}
    again = scripts.run(*command, "--model.width", "8")
    assert (again.code, again.stdout.splitlines()[-len(lines) :]) == (0, lines)
    assert {path: path.stat().st_mtime_ns for path in audit.rglob("*")} == before

    # Where its last stage was interrupted, the stages before it are not done again.
    trained = Checkpoint.newest(str(audit / "run"))
    assert trained is not None
    (audit / "audit.json").unlink()
    (audit / "suspects.csv").unlink()
    resumed = scripts.run(*command, "--model.width", "8", "--placement.num-workers", "1")
    assert resumed.code == 0, resumed.stderr
    assert "\ntraining: " in done.stdout
    assert "\ntraining: " not in resumed.stdout
    assert before[Path(trained.uri)] == Path(trained.uri).stat().st_mtime_ns
    assert json.loads((audit / "audit.json").read_text())["lines"] == lines

    other = scripts.run(*command, "--model.width", "9")
    assert (other.code, "--output must be new for other arguments" in other.stderr) == (2, True)
