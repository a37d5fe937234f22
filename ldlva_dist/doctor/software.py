"""Installed packages against what the project asks for (pyproject.toml) and what was tried together (constraints)."""

import platform
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from ldlva_dist.doctor.finding import Finding, Look

ROOT = Path(__file__).parents[2]
SHOWN = ("torch", "ray", "deepspeed", "pyarrow", "numpy", "boto3")
EXTRAS = {
    "cpu": "FAISS for neighbours in feature space",
    "gpu": "FAISS on GPUs",
    "timm": "any other backbone (--model.name timm:NAME)",
    "onnx": "valence-arousal by a .onnx model, jobs/export.py --onnx",
    "serve": "cluster/serve.py",
    "mlflow": "--training.tracker mlflow",
    "wandb": "--training.tracker wandb",
    "dev": "tests and style checks",
}
"""Purpose of each extra; others that the project has are shown by name."""
EITHER = ("cpu", "gpu")
"""Extras of which one is enough, and two are too many: both install the module faiss."""


def look_at_software(constraints: str | None = None) -> Look:
    """Python, packages and extras; ``constraints`` is a file of NAME==VERSION lines, the checkout's by default."""
    path = Path(constraints) if constraints else ROOT / "constraints.txt"
    pins = read_pins(path.read_text()) if constraints or path.exists() else {}  # an installed package has none
    project = read_project()
    python = check_python(project["requires-python"])
    required = [Requirement(line) for line in project["dependencies"]]
    extras = {name: [Requirement(line) for line in lines] for name, lines in project["optional-dependencies"].items()}
    return Look(findings=(python, *check_packages(required, pins, path.name), *check_extras(extras, pins)))


def read_project() -> dict:
    """The project's table of pyproject.toml, or the same names out of the metadata of an installed package."""
    file = ROOT / "pyproject.toml"
    if file.exists():
        return tomllib.loads(file.read_text())["project"]
    lines = metadata.requires("ldlva-dist") or []
    extras: dict[str, list[str]] = {}
    for line in lines:
        name, _, extra = line.partition("; extra == ")
        if extra:
            extras.setdefault(extra.strip("\"'"), []).append(name)
    plain = [line for line in lines if "extra ==" not in line]
    python = metadata.metadata("ldlva-dist")["Requires-Python"]
    return {"requires-python": python, "dependencies": plain, "optional-dependencies": extras}


def read_pins(text: str) -> dict[str, str]:
    """Canonical name to version, of the lines NAME==VERSION."""
    found = re.findall(r"^([A-Za-z0-9][\w.\-]*)==([^\s;#]+)", text, flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def check_python(specifier: str) -> Finding:
    version, is_fine = platform.python_version(), platform.python_version() in SpecifierSet(specifier)
    return Finding(
        area="software",
        check="python",
        level="ok" if is_fine else "problem",
        found=f"{version} at {sys.prefix}" if is_fine else f"must be {specifier}, got {version}",
        cure="" if is_fine else "make setup PYTHON=python3.11",
    )


def check_packages(required: Sequence[Requirement], pins: Mapping[str, str], pins_name: str) -> list[Finding]:
    """Packages that are missing or of a version that does not do; then those that were not tried together."""
    there = {item.name: installed(item.name) for item in required}
    found = [_unfit(item, there[item.name]) for item in required]
    other = [
        f"{name} {version} (tried: {pins[canonicalize_name(name)]})"
        for name, version in there.items()
        if version and _differs(version, pins.get(canonicalize_name(name)))
    ]
    if other:
        found.append(
            Finding(
                area="software",
                check="versions",
                level="warning",
                found=f"other than {pins_name} has: {', '.join(other)}",
                cure=f"pip install -c {pins_name} {' '.join(item.split()[0] for item in other)}",
            )
        )
    bad = [finding for finding in found if finding]
    if bad:
        return bad
    named = ", ".join(f"{name} {there[name]}" for name in SHOWN if there.get(name))
    return [_ok("packages", f"{len(required)} as required: {named}")]


def check_extras(extras: Mapping[str, Sequence[Requirement]], pins: Mapping[str, str]) -> list[Finding]:
    """Which extras are installed; one that is not is no problem, until it is needed."""
    findings, there = [], {name: all(installed(item.name) for item in items) for name, items in extras.items()}
    either = [name for name in EITHER if there.get(name)]
    for name, items in extras.items():
        wanted = " ".join(f"'{item}'" for item in items)
        if there[name]:
            versions = ", ".join(f"{item.name} {installed(item.name)}" for item in items[:3])
            findings.append(_ok(f"extra [{name}]", versions + (", ..." if len(items) > 3 else "")))
        elif name in EITHER and either:
            continue
        else:
            what, constrained = EXTRAS.get(name, "what is named so"), " -c constraints.txt" if pins else ""
            findings.append(
                Finding(
                    area="software",
                    check=f"extra [{name}]",
                    level="ok" if name not in EITHER else "warning",
                    found=f"not installed; needed for: {what}",
                    cure=f"pip install{constrained} {wanted}" if len(items) < 3 else f"pip install '.[{name}]'",
                )
            )
    if len(either) > 1:
        findings.append(
            Finding(
                area="software",
                check="faiss",
                level="problem",
                found="faiss-cpu and faiss-gpu are both installed, and overwrite each other's files",
                cure="pip uninstall faiss-cpu faiss-gpu, then install the one that is wanted",
            )
        )
    return findings


def installed(name: str) -> str | None:
    """The version of a package that is installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _unfit(item: Requirement, version: str | None) -> Finding | None:
    if version and item.specifier.contains(Version(version).public, prereleases=True):
        return None
    return Finding(
        area="software",
        check=item.name,
        level="problem",
        found=f"must be {item.specifier}, got {version or 'nothing installed'}",
        cure=f"pip install -c constraints.txt '{item}'",
    )


def _differs(version: str, pin: str | None) -> bool:
    """Whether a version is another than was pinned; builds of one version (+cu130) are not."""
    return pin is not None and Version(version).public != Version(pin).public


def _ok(check: str, found: str) -> Finding:
    return Finding(area="software", check=check, level="ok", found=found)
