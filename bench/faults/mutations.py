"""Claim: no damaged file gives a wrong value, a traceback or a wait; each gives the right value or one sentence.

A small data set, its graph, a run of one worker and its exported network are made once. Each mutation (seeded, of the
bytes or the structure of one file) is read through the readers and the checks of ``verify`` in this process. Some of
them, drawn from all kinds, go through whole jobs (jobs/*.py) as well, each with a limit of 60 s. Right is: an error of
ours (in a job: one sentence, exit code 2 or 3), or what the undamaged files give. Files without redundancy (settings,
log lines, what people may edit) must be read as they are written.

--out FILE keeps a line of JSON for every mutation; --kinds and --first go straight to some of them.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from bench.common import drawn_faces, report
from bench.faults.damaged_files import BATCH, JOBS, KINDS, TEST, TRAIN, Kind
from ldlva_dist.config import to_json
from ldlva_dist.config.presets import PRESETS
from ldlva_dist.dataset.images import encode_image
from ldlva_dist.errors import LdlvaError
from ldlva_dist.packing.sources.drawn_faces.faces import draw_faces, draw_people

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How many mutations, and which."""

    count: int = 2000
    """Through the readers, the same number of each kind."""
    jobs: int = 100
    """Of them, through whole jobs."""
    seed: int = 0
    kinds: tuple[str, ...] = ()
    """Of these kinds alone; all if none is named."""
    out: Path | None = None
    """A line of JSON for every mutation."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One mutation and what became of it."""

    kind: str
    number: int
    file: str
    what: str
    job: str | None
    """None: readers in this process."""
    outcome: str
    """refused, same, or what is wrong: traceback, other value, exit code, too long."""
    said: str
    code: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it is what the claim says."""
        return self.outcome in ("refused", "same")


def main(arguments: Arguments) -> None:
    """Make the home, damage it again and again, print a line for each fault, and last the JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        base, home = Path(folder) / "base", Path(folder) / "home"
        make_home(home)
        shutil.copytree(home, base)
        kinds = arguments.kinds or tuple(KINDS)
        records = list(_read_all(arguments, kinds, base, home))
        records += _run_all(arguments, kinds, base, home)
    for record in records:
        if not record.ok:
            print(f"{record.outcome}: {record.kind} {record.number}, {record.file}, {record.what}: {record.said}")
    if arguments.out:
        arguments.out.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
    read, ran = ([r for r in records if (r.job is None) == of_readers] for of_readers in (True, False))
    report(
        "mutations",
        ok=all(record.ok for record in records),
        readers={"mutations": len(read), "outcomes": dict(Counter(r.outcome for r in read))},
        jobs={
            "mutations": len(ran),
            "outcomes": dict(Counter(r.outcome for r in ran)),
            "exit_codes": {str(code): count for code, count in sorted(Counter(r.code for r in ran).items())},
            "longest_s": max((r.seconds for r in ran), default=0.0),
        },
        kinds=list(kinds),
        seed=arguments.seed,
    )


def make_home(home: Path) -> None:
    """A data set with its graph, a run that stopped half way, an exported network, settings and images."""
    home.mkdir()
    shutil.move(drawn_faces(str(home), train=TRAIN, test=TEST, pixels=48), home / "set")
    config = PRESETS["demo"]()
    settings = replace(
        config,
        name="run",
        storage_path=str(home),
        data=replace(config.data, dataset=str(home / "set"), batch_size=BATCH, chunk_rows=16),
        model=replace(config.model, width=4, calibration_hidden=(16, 8)),
        loss=replace(config.loss, warmup_epochs=0.0),
        optim=replace(config.optim, warmup_epochs=0.0),
        training=replace(config.training, epochs=2.0, evaluate_every_epochs=1.0, log_every_steps=1, num_to_keep=9),
        placement=replace(config.placement, num_workers=1),
    )
    (home / "settings.json").write_text(to_json(settings))
    _must_run(["train.py", "--config", str(home / "settings.json")])
    _must_run(["export.py", "--run", str(home / "run"), "--output", str(home / "exported")])
    newest = max(home.glob("run/step-*"))
    shutil.rmtree(newest)  # a run that a kill ended between two checkpoints
    _draw_images(home / "images")


def _draw_images(folder: Path) -> None:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number, image in enumerate(draw_faces(draw_people(6, generator, 0.0).distribution, generator, 48)):
        (folder / f"{number}.jpg").write_bytes(encode_image(image))


def _read_all(arguments: Arguments, kinds: Sequence[str], base: Path, home: Path) -> Iterator[Record]:
    expected = {name: KINDS[name].read(base) for name in kinds}
    for number in range(arguments.count):
        name = kinds[number % len(kinds)]
        file, what = _damage(base, home, KINDS[name], arguments.seed, number)
        began = time.perf_counter()
        outcome, said, code = _examine(KINDS[name], home, expected[name])
        seconds = time.perf_counter() - began
        if seconds > LIMIT_S:
            outcome = "too long"
        yield Record(
            kind=name,
            number=number,
            file=file,
            what=what,
            job=None,
            outcome=outcome,
            said=said,
            code=code,
            seconds=seconds,
        )


def _run_all(arguments: Arguments, kinds: Sequence[str], base: Path, home: Path) -> Iterator[Record]:
    chosen = np.random.default_rng((arguments.seed, 1)).permutation(arguments.count)[: arguments.jobs]
    expected: dict[str, Any] = {}
    for number in sorted(int(n) for n in chosen):
        name = kinds[number % len(kinds)]
        names = KINDS[name].jobs
        job = names[number // len(kinds) % len(names)]
        if job not in expected:
            _restore(base, home)
            _must_run(_command(job, home))
            expected[job] = JOBS[job].outcome(home)
        file, what = _damage(base, home, KINDS[name], arguments.seed, number)
        began = time.perf_counter()
        outcome, said, code = _run(job, home, None if KINDS[name].as_written and job != "resume" else expected[job])
        record = Record(
            kind=name,
            number=number,
            file=file,
            what=what,
            job=job,
            outcome=outcome,
            said=said,
            code=code,
            seconds=time.perf_counter() - began,
        )
        print(
            f"{record.seconds:5.1f} s, exit {code}, {outcome}: {job} after {name} {number} ({what}): {said}", flush=True
        )
        yield record


def _damage(base: Path, home: Path, kind: Kind, seed: int, number: int) -> tuple[str, str]:
    """Lay the home anew and damage one file of it; the file and what was done."""
    _restore(base, home)
    draw = np.random.default_rng((seed, number))
    files = sorted(path for pattern in kind.files for path in home.glob(pattern) if path.is_file())
    file = files[int(draw.integers(len(files)))]
    before = file.read_bytes()
    after, what = kind.mutators[int(draw.integers(len(kind.mutators)))](before, draw)
    file.write_bytes(after)
    return str(file.relative_to(home)), what if after != before else f"{what}, nothing changed"


def _restore(base: Path, home: Path) -> None:
    shutil.rmtree(home)
    shutil.copytree(base, home)


def _examine(kind: Kind, home: Path, expected: Any) -> tuple[str, str, int]:
    """Outcome, sentence and exit code of the readers."""
    try:
        found = kind.read(home)
    except LdlvaError as error:
        code = error.exit_code
        return ("refused" if code in (2, 3) else "exit code"), str(error)[:300], code
    except Exception:  # the claim is that there is none: each is counted and shown
        return "traceback", traceback.format_exc(limit=-3)[-600:], 1
    if kind.as_written:
        found, expected = found
    return ("same" if _equal(found, expected) else "other value"), "", 0


def _run(job: str, home: Path, expected: Any) -> tuple[str, str, int]:
    """Outcome, sentence and exit code of a whole job."""
    try:
        done = _start(_command(job, home), LIMIT_S)
    except subprocess.TimeoutExpired:
        return "too long", "", -1
    said = next((line for line in done.stderr.splitlines() if line.startswith("error: ")), "")
    if "Traceback" in done.stdout + done.stderr:
        return "traceback", (done.stdout + done.stderr)[-600:], done.returncode
    if done.returncode:
        refused = done.returncode in (2, 3) and said
        return ("refused" if refused else "exit code"), said or done.stderr[-300:], done.returncode
    same = expected is None or _equal(JOBS[job].outcome(home), expected)
    return ("same" if same else "other value"), "", 0


def _command(job: str, home: Path) -> list[str]:
    return [part.replace("HOME", str(home)) for part in JOBS[job].command]


def _must_run(command: Sequence[str]) -> None:
    done = _start(command, 600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def _start(command: Sequence[str], limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run a job with its children in a session of its own, which does not outlive the limit."""
    environment = os.environ | {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1", "COLUMNS": "400"}
    script, *arguments = command
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _equal(one: Any, other: Any) -> bool:
    """Whether two trees of plain values are the same; NaN is NaN, and True is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float) and isinstance(other, int):
        other = float(other)
    return one == other or (one != one and other != other)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
