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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tyro
from safetensors.numpy import load

from bench.common import drawn_faces, report
from bench.faults.mutators import Mutator, damage_array, damage_bytes, damage_json, damage_lines, damage_parquet
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.config import from_json, to_json
from ldlva_dist.config.presets import PRESETS
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import encode_image
from ldlva_dist.dataset.manifest_checks import check_manifest
from ldlva_dist.errors import DataError, LdlvaError
from ldlva_dist.index.graph import read_graph
from ldlva_dist.index.verify_graph import check_part, graphs_of
from ldlva_dist.inference.trained import read_model
from ldlva_dist.packing.sources.drawn_faces.faces import draw_faces, draw_people
from ldlva_dist.packing.verify_shards import check_shard
from ldlva_dist.records.metrics_log import read_metrics

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0
TRAIN, TEST, K, BATCH = 270, 60, 32, 27
STEPS = 2 * TRAIN // BATCH
Read = Callable[[Path], Any]


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
class Kind:
    """Files of one kind, the ways to damage them, who reads them, and the jobs that meet them."""

    files: Sequence[str]
    """Patterns below the home."""
    mutators: Sequence[Mutator]
    read: Read
    """Everything that is read of them, as plain values."""
    jobs: Sequence[str]
    """Names of JOBS."""
    as_written: bool = False
    """The reader owes what the file says, as there is nothing to compare it with."""


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


def read_dataset(home: Path) -> Any:
    """What training reads of the data set after all checks of ``verify``: rows, graph, images by their checksums."""
    dataset = Dataset.open(str(home / "set"))
    info = dataset.info
    dataset.require_root()
    graphs, findings = graphs_of(dataset)
    findings += check_manifest(dataset, keys=True)
    for number in range(len(info.shards)):
        findings += check_shard(dataset, number)
    for folder, graph in graphs if not findings else []:
        for part in range(graph.num_parts):
            findings += check_part(dataset, folder, graph, part)
    if findings:
        raise DataError("; ".join(findings))
    columns = ["id", "key", "shard", "offset", "size", "checksum", "label", "valence", "arousal"]
    ids, squared = read_graph(dataset, 0, info.num_train, K)
    return [
        info.class_names,
        info.num_train,
        [asdict(shard) for shard in info.shards],
        info.va_transform,
        dataset.columns(columns).to_pydict(),
        ids.tolist(),
        squared.tolist(),
    ]


def read_checkpoint(home: Path) -> Any:
    """Facts, settings, weights, optimiser, uncertainties and bank files of the run's last checkpoint."""
    uri = str(next(iter(home.glob("run/step-*"))))
    saved = Checkpoint.open(uri)
    info = Dataset.open(str(home / "set")).info
    saved.require_data_set(info)
    for name in saved.names():
        saved.check(name)
    weights = {name: values.numpy().tobytes() for name, values in saved.read_weights().items()}
    moments = {name: values.tobytes() for name, values in load(saved.read("optimizer.safetensors")).items()}
    names = ("step", "class_names", "content_hash", "num_train", "plan_version")
    logits = saved.read_logits(info.num_train).tolist()
    return [{name: saved.facts[name] for name in names}, to_json(saved.config), weights, moments, logits]


def read_settings(home: Path) -> Any:
    """The settings' values whose names stand in the file, and what the file says of them."""
    text = (home / "settings.json").read_bytes()
    return _agreement(json.loads(to_json(from_json(text))), json.loads(text))


def read_log(home: Path) -> Any:
    """The lines of a run's log, and what the file says: all its lines but an unfinished last one."""
    found = read_metrics(str(home / "run"))
    text = (home / "run" / "metrics.jsonl").read_bytes()
    return [found, [json.loads(line) for line in text.split(b"\n")[:-1]]]


def read_exported(home: Path) -> Any:
    """The exported network as it answers, and what ``model.json`` says of it."""
    portable = read_model(str(home / "exported"))
    model = portable.build()
    written = json.loads((home / "exported" / "model.json").read_bytes())
    side, channels = portable.description.image_size, portable.description.channels
    answers = model(
        np.arange(side * side * channels, dtype=np.uint32).astype(np.uint8).reshape(1, side, side, channels)
    )
    assert np.isfinite(answers.probs_nC).all()
    return _agreement(json.loads(portable.description.to_json()), written)


def read_weights_file(home: Path) -> Any:
    """What the exported network answers."""
    model = read_model(str(home / "exported")).build()
    side, channels = model.description.image_size, model.description.channels
    return model(np.zeros((1, side, side, channels), np.uint8)).probs_nC.tolist()


KINDS = {
    "manifest": Kind(
        files=["set/manifest.parquet"],
        mutators=[damage_bytes, damage_parquet, damage_parquet],
        read=read_dataset,
        jobs=["verify", "train"],
    ),
    "dataset.json": Kind(
        files=["set/dataset.json"],
        mutators=[damage_bytes, damage_json, damage_json, damage_json],
        read=read_dataset,
        jobs=["verify", "train"],
    ),
    "graph": Kind(
        files=["set/graph-K32/*"],
        mutators=[damage_bytes],
        read=read_dataset,
        jobs=["verify"],
    ),
    "graph cells": Kind(
        files=["set/graph-K32/*.npy"],
        mutators=[damage_array],
        read=read_dataset,
        jobs=["verify"],
    ),
    "shard": Kind(files=["set/*.tar"], mutators=[damage_bytes], read=read_dataset, jobs=["verify", "train"]),
    "checkpoint": Kind(
        files=["run/step-*/*", "run/step-*/table/*", "run/step-*/bank/*"],
        mutators=[damage_bytes],
        read=read_checkpoint,
        jobs=["resume", "evaluate"],
    ),
    "state.json": Kind(
        files=["run/step-*/state.json"],
        mutators=[damage_json],
        read=read_checkpoint,
        jobs=["resume", "evaluate"],
    ),
    "settings": Kind(
        files=["settings.json"],
        mutators=[damage_bytes, damage_json, damage_json, damage_json],
        read=read_settings,
        jobs=["plan"],
        as_written=True,
    ),
    "metrics": Kind(
        files=["run/metrics.jsonl"],
        mutators=[damage_bytes, damage_lines],
        read=read_log,
        jobs=["resume", "report"],
        as_written=True,
    ),
    "model.json": Kind(
        files=["exported/model.json"],
        mutators=[damage_bytes, damage_json, damage_json],
        read=read_exported,
        jobs=["predict"],
        as_written=True,
    ),
    "weights": Kind(
        files=["exported/model.safetensors"],
        mutators=[damage_bytes],
        read=read_weights_file,
        jobs=["predict"],
    ),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A whole job over the damaged home, and what of its outcome must be as without the damage."""

    command: Sequence[str]
    outcome: Read


def _losses(home: Path, run: str, first: int = -1) -> Any:
    return [line["loss"] for line in read_metrics(str(home / run)) if line.get("step", -1) > first and "loss" in line]


def _table(path: Path) -> Any:
    """The rows of a parquet file, or of a folder of them."""
    return pq.read_table(path).to_pydict()


JOBS = {
    "verify": Job(command=["make_shards.py", "verify", "HOME/set"], outcome=lambda home: None),
    "train": Job(
        command=["train.py", "--config", "HOME/settings.json", "--name", "anew"],
        outcome=lambda home: _losses(home, "anew"),
    ),
    "resume": Job(
        command=["train.py", "--config", "HOME/settings.json"],
        outcome=lambda home: _losses(home, "run", first=STEPS // 2),
    ),
    "evaluate": Job(
        command=["evaluate.py", "--run", "HOME/run", "--split", "test"],
        outcome=lambda home: json.loads((home / "run" / "evaluation.json").read_text()),
    ),
    "report": Job(
        command=["report.py", "--run", "HOME/run"],
        outcome=lambda home: _table(home / "run" / "uncertainty.parquet"),
    ),
    "plan": Job(command=["plan.py", "--config", "HOME/settings.json", "--no-probe"], outcome=lambda home: None),
    "predict": Job(
        command=["predict.py", "folder", "--model", "HOME/exported", "--images", "HOME/images", "--output", "HOME/out"],
        outcome=lambda home: _table(home / "out" / "predictions"),
    ),
}


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


def _agreement(found: Any, written: Any) -> list[Any]:
    """The part of ``found`` that ``written`` names, and ``written``; equal where every value is the one written."""
    return [_part_of(found, written), written]


def _part_of(found: Any, written: Any) -> Any:
    if isinstance(found, dict) and isinstance(written, dict):
        return {name: _part_of(found.get(name), value) for name, value in written.items()}
    return found


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
