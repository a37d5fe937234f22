"""Real problems, and what the doctor says of them."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ldlva_dist.doctor import cluster, compare, devices, machine, software, store
from ldlva_dist.doctor.checks import KINDS, Kind, take
from ldlva_dist.doctor.finding import Finding

GB = 10**9
NOTHING = "ldlva-no-such-package"


def _levels(findings: list[Finding] | tuple[Finding, ...]) -> dict[str, str]:
    return {finding.check: finding.level for finding in findings}


def test_a_version_that_was_not_tried_is_named_with_the_one_that_was(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("# tried\nnumpy==1.0.0\nRich==0.1  # old\n")
    (found,) = [
        finding
        for finding in software.look_at_software(str(tmp_path / "mine.txt")).findings
        if finding.check == "versions"
    ]
    assert found.level == "warning"
    assert f"numpy {software.installed('numpy')} (tried: 1.0.0)" in found.found
    assert f"rich {software.installed('rich')} (tried: 0.1)" in found.found
    assert found.cure == "pip install -c mine.txt numpy rich"


def test_other_builds_of_a_version_are_that_version() -> None:
    version = software.installed("torch")
    assert version is not None
    pins = {"torch": version.partition("+")[0] + "+cu999"}
    assert _levels(software.check_packages([Requirement("torch")], pins, "c.txt")) == {"packages": "ok"}


@pytest.mark.parametrize(
    ("line", "sentence"), [(f"{NOTHING}>=2", "must be >=2, got nothing installed"), ("numpy<1", r"must be <1, got 2\.")]
)
def test_a_package_that_is_missing_or_unfit_is_a_problem(line: str, sentence: str) -> None:
    (found,) = software.check_packages([Requirement("rich"), Requirement(line)], {}, "c.txt")
    assert found.level == "problem"
    assert re.search(sentence, found.found)
    assert found.cure == f"pip install -c constraints.txt '{line}'"


def test_an_extra_that_is_missing_says_what_it_is_for() -> None:
    (found,) = software.check_extras({"timm": [Requirement(f"{NOTHING}>=1")]}, {})
    assert (found.level, found.cure) == ("ok", f"pip install '{NOTHING}>=1'")
    assert "not installed" in found.found
    assert "backbone" in found.found


def test_both_faiss_packages_are_one_too_many() -> None:
    extras = {"cpu": [Requirement("numpy")], "gpu": [Requirement("rich")]}
    assert _levels(software.check_extras(extras, {}))["faiss"] == "problem"
    assert "faiss" not in _levels(software.check_extras(extras | {"gpu": [Requirement(NOTHING)]}, {}))


def test_this_project_is_as_it_asks_for() -> None:
    assert "problem" not in _levels(software.look_at_software().findings).values()


def test_an_old_python_is_a_problem() -> None:
    found = software.check_python(">=99")
    assert (found.level, bool(found.cure)) == ("problem", True)


@pytest.mark.parametrize(
    ("memory", "free", "level"),
    [
        (64 * GB, 64 * 10**6, "problem"),  # what a container has
        (64 * GB, 32 * GB, "ok"),
        (2 * GB, 1 * GB, "ok"),
        (1000 * GB, 50 * GB, "ok"),  # Ray makes the store as large as that
    ],
)
def test_shared_memory_must_hold_the_object_store(memory: int, free: int, level: str) -> None:
    found = machine.check_shared_memory(memory, free)
    assert found.level == level
    assert ("--shm-size=10g" in found.cure) == (level == "problem")


def test_limits_that_are_too_low_say_how_to_raise_them() -> None:
    low = machine.check_open_files(1024, 4096)
    assert (low.level, "got 4,096" in low.found, "ulimit -n" in low.cure) == ("problem", True, True)
    assert machine.check_open_files(1024, 1 << 20).level == "ok"  # Ray raises it itself
    assert machine.check_processes(100).level == "problem"
    assert machine.check_disk("/tmp", 100 * GB, 4 * GB).level == "problem"
    assert machine.check_disk("/tmp", 20 * GB, 4 * GB).level == "warning"
    assert machine.check_disk("/tmp", 100 * GB, 50 * GB).level == "ok"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that others may pass through, as pytest's own are not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_a_token_that_others_can_read_is_a_problem(open_folder: Path) -> None:
    token = open_folder / "token"
    token.write_text("secret")
    for mode, level in ((0o644, "problem"), (0o640, "problem"), (0o600, "ok")):
        token.chmod(mode)
        (found,) = cluster.check_tokens({}, token)
        assert found.level == level
    token.chmod(0o644)
    open_folder.chmod(0o700)
    assert _levels(cluster.check_tokens({}, token)) == {"token": "ok"}


@pytest.mark.parametrize(
    ("environment", "level", "sentence"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "problem", "whoever reaches the ports"),
        ({"RAY_AUTH_MODE": "token"}, "problem", "there is none in"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "abc"}, "warning", "RAY_AUTH_TOKEN"),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, "problem", "there is none in"),
        ({}, "ok", "Ray makes one"),
    ],
)
def test_what_is_said_of_tokens(environment: dict[str, str], level: str, sentence: str, tmp_path: Path) -> None:
    (found,) = cluster.check_tokens(environment, tmp_path / "token")
    assert found.level == level
    assert sentence in found.found
    assert bool(found.cure) == (level != "ok")


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    found = store.look_at_store(str(tmp_path / "not" / "yet"))
    assert _levels(found.findings) == {"free space": "ok", "write and read": "ok"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["/proc/runs", "FILE/runs"])
def test_a_folder_that_cannot_be_written_is_a_problem(folder: str, tmp_path: Path) -> None:
    (tmp_path / "FILE").touch()
    uri = folder if folder.startswith("/") else str(tmp_path / folder)
    (found,) = store.look_at_store(uri).findings
    assert found.level == "problem"
    assert "storage path must be writable" in found.found
    assert uri in found.found
    assert "chown" in found.cure


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of somebody who listens, and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
        yield address


@pytest.mark.usefixtures("no_credentials")
def test_a_store_that_nobody_runs_is_named_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        found = {finding.check: finding for finding in store.look_at_store("s3://bucket/runs").findings}
    assert found["endpoint"].level == "problem"
    assert endpoint in found["endpoint"].found
    assert "AWS_ENDPOINT_URL" in found["endpoint"].cure
    assert "write and read" not in found


@pytest.mark.usefixtures("no_credentials", "deaf")
def test_missing_credentials_are_told_apart_from_a_missing_store() -> None:
    found = {finding.check: finding for finding in store.look_at_store("s3://bucket/runs").findings}
    assert {name: finding.level for name, finding in found.items()} == {"endpoint": "ok", "credentials": "problem"}
    assert "AWS_ACCESS_KEY_ID" in found["credentials"].cure


@pytest.mark.usefixtures("no_credentials", "deaf")
def test_a_look_that_hangs_is_ended_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("LDLVA_S3_LIMIT_S", "600")
    kind = Kind(function="store.look_at_store", area="storage", limit_s=4, cure="another store")
    (found,) = take(kind, "storage", "s3://bucket/runs").findings
    assert (found.level, found.found, found.cure) == ("problem", "did not answer in 4 s", "another store")


def test_a_look_that_falls_over_is_a_problem_with_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = Kind(function="store.no_such_look", area="storage", limit_s=60, cure="make setup")
    (found,) = take(kind, "storage").findings
    assert (found.level, found.cure) == ("problem", "make setup")
    assert "no_such_look" in found.found


def test_a_cluster_that_nobody_runs_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        (found,) = cluster.look_at_ray().findings
    assert found.level == "problem"
    assert "nobody answers" in found.found
    assert "cluster/local.sh" in found.cure


GPUS = {"driver_gpus": 2, "driver_cuda": "13.0", "torch_gpus": 2, "torch_cuda": "13.0"}


@pytest.mark.parametrize(
    ("facts", "check", "level", "sentence"),
    [
        ({"torch_gpus": 0, "torch_cuda": None}, "torch", "problem", "built for CPUs"),
        ({"torch_gpus": 1}, "torch", "problem", "sees fewer"),
        ({"driver_cuda": "12.4"}, "CUDA of torch", "problem", "the driver serves 12.4"),
        ({"faiss_gpus": 0, "faiss_package": "faiss-cpu"}, "FAISS", "warning", "search on CPUs"),
        ({"faiss_gpus": 0, "faiss_package": "faiss-gpu"}, "FAISS", "problem", "faiss-gpu sees 0"),
        ({"faiss_gpus": 2, "faiss_package": "faiss-gpu", "faiss_cuda": "12"}, "CUDA of torch and FAISS", "ok", "fine"),
        ({"ray_is_local": True, "ray_gpus": 0}, "Ray", "problem", "Ray counts 0"),
    ],
)
def test_those_who_see_other_gpus_than_there_are(
    facts: dict[str, object], check: str, level: str, sentence: str
) -> None:
    found = {finding.check: finding for finding in compare.compare_facts(GPUS | facts)}
    assert found[check].level == level
    assert sentence in found[check].found


def test_a_machine_without_gpus_and_one_where_all_agree_have_no_finding() -> None:
    assert compare.compare_facts({"driver_gpus": 0, "driver_cuda": None, "torch_gpus": 0, "torch_cuda": None}) == []
    assert compare.compare_facts(GPUS) == []


def test_a_local_folder_on_many_nodes_is_a_warning() -> None:
    (found,) = compare.compare_facts({"local": True, "uri": "runs", "ray_nodes": 3})
    assert (found.level, "3 nodes" in found.found) == ("warning", True)
    assert compare.compare_facts({"local": False, "uri": "s3://b", "ray_nodes": 3}) == []


def test_a_look_in_a_process_of_its_own_gives_the_same(tmp_path: Path) -> None:
    elsewhere = take(KINDS["storage"], "storage", str(tmp_path))
    here = store.look_at_store(str(tmp_path))
    assert _levels(elsewhere.findings) == _levels(here.findings) == {"free space": "ok", "write and read": "ok"}
    assert elsewhere.facts == here.facts


SMI = """#!/bin/sh
case "$1" in
--list-gpus) echo "GPU 0: NVIDIA H100 (UUID: GPU-1)"; echo "GPU 1: NVIDIA H100 (UUID: GPU-2)" ;;
*) echo "| NVIDIA-SMI 580.65   Driver Version: 580.65   CUDA Version: 13.0 |" ;;
esac
"""


def _smi(folder: Path, text: str) -> None:
    (folder / "nvidia-smi").write_text(text)
    (folder / "nvidia-smi").chmod(0o755)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where alone programs are found; two GPUs are plugged in."""
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    monkeypatch.setattr(devices, "DRIVER_GPUS", tmp_path / "gpus")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_the_driver_tells_its_gpus_and_the_newest_cuda(programs: Path) -> None:
    _smi(programs, SMI)
    look = devices.look_at_driver()
    assert look.facts == {"driver_gpus": 2, "driver_cuda": "13.0"}
    assert [finding.found for finding in look.findings] == ["2 (NVIDIA H100), CUDA up to 13.0"]


@pytest.mark.parametrize(
    ("smi", "why"), [(None, "there is no nvidia-smi"), ("#!/bin/sh\nexit 9\n", "nvidia-smi failed: .* 9")]
)
def test_a_driver_that_does_not_answer_is_a_problem(programs: Path, smi: str | None, why: str) -> None:
    if smi:
        _smi(programs, smi)
    look = devices.look_at_driver()
    assert _levels(look.findings) == {"NVIDIA driver": "problem"}
    assert re.search(f"2 GPUs are there, but {why}", look.findings[0].found)
    assert look.facts == {"driver_gpus": 2, "driver_cuda": None}


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("torch", {"torch_gpus", "torch_cuda"}),
        ("FAISS", {"faiss_gpus", "faiss_package", "faiss_cuda"}),
        ("DeepSpeed", set()),
    ],
)
def test_what_is_installed_here_works(name: str, facts: set[str]) -> None:
    look = take(KINDS[name], name)
    assert _levels(look.findings) == {name: "ok"}
    assert set(look.facts) == facts


def _doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(software.ROOT / "jobs" / "doctor.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_job_looks_at_what_is_asked_for_and_writes_what_it_found(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    done = _doctor("--only", "storage", "software", "--storage", str(tmp_path / "runs"), "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all is well\n")
    found = [Finding(**finding) for finding in json.loads(file.read_text())]
    assert {finding.area for finding in found} == {"storage", "software"}
    assert all(finding.check in done.stdout for finding in found)


def test_the_job_ends_with_2_where_there_is_a_problem(tmp_path: Path) -> None:
    done = _doctor("--only", "storage", "--storage", "/proc/runs")
    assert done.returncode == 2
    assert "error: problems found: 1 of storage" in done.stderr
    assert "chown" in done.stdout  # the table, with the cure
    assert "all is well" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--constraints", "TYPO"], "--constraints must be a file of NAME==VERSION lines, got 'TYPO'"),
        (["--only", "disk"], "--only must be of software, machine, .* got disk"),
    ],
)
def test_the_job_refuses_what_is_not_there(arguments: list[str], sentence: str) -> None:
    done = _doctor(*arguments)
    assert done.returncode == 2
    assert re.search(sentence, re.sub(r"[│\s]+", " ", done.stderr))
    assert "all is well" not in done.stdout
