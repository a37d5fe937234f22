"""Claim: suspects go through the real tools and come back whole, and what was changed there comes back as a decision.

1,000 samples with names and scores that are hard to keep are written for a tool, read, changed and written again by the
tool's own code in an environment of its own (pinned packages, fetched by pip), and read back. A third of the samples
is set to another class in the tool. CVAT's side is Datumaro, which reads and writes its XML; Label Studio's is the
converter of its SDK; FiftyOne's are its importer and exporter without its database; Spotlight only reads.
--environments keeps the environments for the next time.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import tyro

from bench.common import report
from ldlva_dist.dataset.images import encode_image
from ldlva_dist.errors import DataError
from ldlva_dist.exchange.clean_lab import write_arrays
from ldlva_dist.exchange.common_form import LabelIssue, as_issues
from ldlva_dist.exchange.formats import FORMATS, FormatName, read_marked
from testing.random_issues import CLASSES, listed, random_issues

COUNT = 1000
TO = CLASSES[0]
"""Class that every third sample is set to."""
LIMIT_S = 900

LABEL_STUDIO = """
import json, sys
from label_studio_sdk.converter.converter import Converter
there, back = sys.argv[1:]
tasks = json.load(open(f"{there}/tasks.json"))
for number, task in enumerate(tasks):
    task["id"] = number
    if number % 3 == 0:
        choice = {"from_name": "decision", "to_name": "image", "type": "choices", "value": {"choices": ["Neutral"]}}
        task["annotations"] = [{"result": [choice]}]
    for annotation in task.setdefault("annotations", []):
        annotation.update(id=number, completed_by=7, was_cancelled=False)
json.dump(tasks, open(f"{back}/project.json", "w"))
converter = Converter(open(f"{there}/config.xml").read(), project_dir=there)
for form in ("JSON", "JSON_MIN"):
    converter.convert(f"{back}/project.json", f"{back}/{form}", form, is_dir=False)
"""

FIFTYONE = """
import sys
from fiftyone.utils.data.exporters import FiftyOneImageClassificationDatasetExporter as Exporter
from fiftyone.utils.data.importers import FiftyOneImageClassificationDatasetImporter as Importer
there, back = sys.argv[1:]
order = {key: number for number, key in enumerate(open(f"{there}/keys.txt").read().split("\\n"))}
with Importer(dataset_dir=there) as images, Exporter(
    export_dir=back, export_media=False, include_confidence=True, include_attributes=True
) as exporter:
    for path, metadata, label in images:
        if order[path.rpartition("/")[2].removesuffix(".jpg")] % 3 == 0:
            label.label = "Neutral"
        exporter.export_sample(path, label, metadata=metadata)
"""

CVAT = """
import sys
import datumaro
there, back = sys.argv[1:]
order = {key: number for number, key in enumerate(open(f"{there}/keys.txt").read().split("\\n"))}
images = datumaro.Dataset.import_from(there, "cvat")
names = [category.name for category in images.categories()[datumaro.AnnotationType.label]]
for image in images:
    if order[image.id] % 3 == 0:
        tag = image.annotations[0]
        image.annotations[0] = datumaro.Label(names.index("Neutral"), attributes=tag.attributes)
        images.put(image)
images.export(back, "cvat", save_media=False)
"""

SPOTLIGHT = """
import sys
import pandas
from pathlib import Path
import renumics.spotlight.app  # registers what reads a file
from renumics.spotlight.data_source.registry import create_datasource
from renumics.spotlight.data_store import DataStore
there, back = sys.argv[1:]
store = DataStore(create_datasource(Path(there, "issues.parquet")), {})
kinds = {name: str(kind) for name, kind in store.dtypes.items()}
assert (kinds["embedding"], kinds["image"]) == ("Embedding", "Image"), kinds
names = ["key", "given", "proposed", "score", "decision"]
values = {name: store.get_converted_values(name) for name in names}
pandas.DataFrame(values).to_parquet(f"{back}/issues.parquet")
"""

CLEANLAB = """
import sys
import numpy
from cleanlab import Datalab
from cleanlab.filter import find_label_issues
there, back = sys.argv[1:]
labels, probs, keys = (numpy.load(f"{there}/{name}.npy") for name in ("labels", "pred_probs", "keys"))
keys[find_label_issues(labels, probs, return_indices_ranked_by="self_confidence")]
lab = Datalab({"label": labels}, label_name="label", task="classification")
lab.find_issues(pred_probs=probs, issue_types={"label": {}})
issues = lab.get_issues("label")
issues.insert(0, "key", keys)
issues.to_csv(f"{back}/issues.csv", index=False)
"""


@dataclass(frozen=True)
class Tool:
    """A tool, and how its side of the round trip is made."""

    packages: tuple[str, ...]
    script: str
    returned: tuple[str, ...]
    """Files that come back."""
    reviewer: str | None = None
    """Name of who decided, as the tool says it."""
    is_changed: bool = True
    """Whether every third sample is set to another class."""


TOOLS: dict[FormatName, Tool] = {
    "label-studio": Tool(
        ("label-studio-sdk==2.1.2",), LABEL_STUDIO, ("JSON/result.json", "JSON_MIN/result.json"), "annotator 7"
    ),
    "fiftyone": Tool(("fiftyone==1.22.1",), FIFTYONE, ("labels.json",)),
    "cvat": Tool(("datumaro==1.13.12",), CVAT, ("annotations.xml",)),
    "spotlight": Tool(("renumics-spotlight==1.8.2",), SPOTLIGHT, ("issues.parquet",), is_changed=False),
    "cleanlab": Tool(("cleanlab[datalab]==2.9.0",), CLEANLAB, ("issues.csv",), is_changed=False),
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to run."""

    tools: tuple[FormatName, ...] = tuple(TOOLS)
    """Formats whose tools are run."""
    environments: str | None = None
    """Folder that keeps the environments; a temporary one if not given."""


def main(arguments: Arguments) -> None:
    """Run each tool and print one JSON line."""
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        environments = Path(arguments.environments or f"{folder}/environments").absolute()
        for name in arguments.tools:
            found[name] = round_trip(name, Path(folder, name), environments / name)
            print(name, found[name], flush=True)
    is_whole = all(not figures.get("lost") for figures in found.values())
    report("exchange", ok=is_whole and all("error" not in figures for figures in found.values()), tools=found)


def round_trip(name: FormatName, folder: Path, environment: Path) -> dict[str, object]:
    """Rows that came back, and those that did not come back as they should have."""
    tool, issues = TOOLS[name], random_issues(COUNT)
    there, back = folder / "there", folder / "back"
    back.mkdir(parents=True)
    write(name, there, issues)
    installed = environment / "bin" / "python"
    if not installed.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=LIMIT_S)
        pip = [str(installed), "-m", "pip", "install", "-q", "--disable-pip-version-check", *tool.packages]
        subprocess.run(pip, check=True, timeout=LIMIT_S)
    (folder / "script.py").write_text(tool.script)
    command = [str(installed), str(folder / "script.py"), str(there), str(back)]
    quiet = {**os.environ, "HOME": str(folder), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode:
        return {"packages": list(tool.packages), "error": done.stderr.splitlines()[-1:]}
    figures: dict[str, object] = {"packages": list(tool.packages)}
    lost: list[str] = []
    for file in tool.returned:
        try:
            rows = {issue.key: issue for issue in as_issues(read_marked(str(back / file)))}
        except DataError as error:
            return figures | {"error": str(error)}
        wanted = CHECKS.get(name, expected)(tool, issues)
        wrong = [key for key in wanted.keys() | rows.keys() if rows.get(key) != wanted.get(key)]
        figures[file] = {"rows": len(rows), "wanted": len(wanted), "equal": len(wanted) - len(wrong)}
        lost += [f"{file}: {rows.get(key)} for {wanted.get(key)}" for key in wrong[:2]]
    return figures | {"lost": lost}


def write(name: FormatName, there: Path, issues: list[LabelIssue]) -> None:
    """Files and images for a tool."""
    there.mkdir(parents=True)
    FORMATS[name].write(str(there), listed(issues, str(there / "images")))
    (there / "keys.txt").write_text("\n".join(issue.key for issue in issues))
    folder = FORMATS[name].images
    if folder is not None:
        (there / folder).mkdir()
        image = encode_image(np.zeros((40, 48, 1), np.uint8))
        for issue in issues:
            (there / folder / f"{issue.key}.jpg").write_bytes(image)
    if name == "cleanlab":
        write_arrays(str(there), *probabilities(issues))


def probabilities(issues: list[LabelIssue]) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """Predictions, labels and keys; 1 - the prediction at the label is the score, as nearly as float32 has it."""
    labels = np.array([CLASSES.index(issue.given or "") for issue in issues])
    scores = np.array([issue.score for issue in issues], dtype=np.float64)
    probs = np.repeat(scores[:, None] / (len(CLASSES) - 1), len(CLASSES), axis=1)
    probs[np.arange(len(issues)), labels] = 1 - scores
    return probs.astype(np.float32), labels, pa.array([issue.key for issue in issues])


def expected(tool: Tool, issues: list[LabelIssue]) -> dict[str, LabelIssue]:
    """What must come back, by key."""
    wanted = {}
    for number, issue in enumerate(issues):
        decision, is_labelled = issue.decision, tool.reviewer is not None
        if tool.is_changed and number % 3 == 0 and (is_labelled or (issue.decision or issue.given) != TO):
            decision = TO
        reviewer = tool.reviewer if decision is not None else None
        wanted[issue.key] = issue._replace(decision=decision, reviewer=reviewer)
    return wanted


def by_cleanlab(tool: Tool, issues: list[LabelIssue]) -> dict[str, LabelIssue]:
    """What cleanlab must say: the label as its number, the likeliest class, and 1 - its score."""
    del tool
    probs, labels, _ = probabilities(issues)
    kept = probs[np.arange(len(labels)), labels]
    return {
        issue.key: LabelIssue(
            issue.key, str(labels[i]), str(int(probs[i].argmax())), 1 - float(f"{kept[i]!s}"), None, None
        )
        for i, issue in enumerate(issues)
    }


CHECKS: dict[FormatName, Callable[[Tool, list[LabelIssue]], dict[str, LabelIssue]]] = {"cleanlab": by_cleanlab}


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
