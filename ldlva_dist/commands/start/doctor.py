"""What is wrong here, and its cure: python jobs/doctor.py [--storage URI] [--constraints FILE] [--json FILE].

Looks at packages and extras, GPUs as driver, torch, FAISS and Ray see them, DeepSpeed, shared memory, limits and disks,
the cluster that RAY_ADDRESS names (or one that is started here), its token, GPUs as workers of its nodes see them
(torch and its driver, NCCL, FAISS), and a folder or bucket by writing to it.
Every look has a limit. Exit code 0 when all is well, warnings too, and 2 for problems.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from ldlva_dist.doctor.checks import KINDS, examine
from ldlva_dist.errors import SettingError
from ldlva_dist.records.console import say
from ldlva_dist.reporting.doctor_table import print_findings


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """What to look at."""

    storage: str = "runs"
    """Local folder or s3:// prefix that runs are to be written to."""
    constraints: str | None = None
    """A file of NAME==VERSION lines to compare with; the checkout's constraints.txt by default."""
    json: str | None = None
    """A file to write the findings to as well."""
    only: tuple[str, ...] = ()
    """Some looks instead of all: software, machine, driver, torch, FAISS, DeepSpeed, token, Ray, workers, storage."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.only if name not in KINDS]
        if unknown:
            raise SettingError(f"--only must be of {', '.join(KINDS)}, got {', '.join(unknown)}")
        if self.constraints and not Path(self.constraints).is_file():
            raise SettingError(f"--constraints must be a file of NAME==VERSION lines, got {self.constraints!r}")


def run_doctor() -> None:
    """Look, print, judge."""
    arguments = tyro.cli(DoctorArguments, description=__doc__)
    asked = {"storage": arguments.storage, "software": arguments.constraints}
    findings = list(examine(arguments.only or tuple(KINDS), asked))
    print_findings(findings)
    if arguments.json:
        from ldlva_dist import storage

        text = json.dumps([asdict(finding) for finding in findings], indent=2) + "\n"
        storage.write_bytes(arguments.json, text.encode())
    areas = Counter(finding.area for finding in findings if finding.level == "problem")
    if areas:
        raise SettingError(f"problems found: {', '.join(f'{n} of {area}' for area, n in areas.items())}")
    say("all is well")
