"""Shared memory, limits and disks of this machine, by Ray's own rules."""

import os
import resource
import shutil
from pathlib import Path

import psutil

from ldlva_dist.doctor.finding import Finding, Look

GB = 1e9
STORE_SHARE, STORE_MOST, STORE_ALWAYS = 0.3, 200 * GB, 10 * GB
"""Ray's object store: a share of the memory, capped, and by the shared memory only above ``STORE_ALWAYS``."""
FILES_RAISED_TO, FILES_NEEDED = 65_536, 8192
"""Ray raises its own limit of open files as far as it may; its warning asks for so many."""
PROCESSES_NEEDED = 4096
FULL_SHARE, FREE_NEEDED = 0.95, 5 * GB
"""Ray makes no more objects when the disk of its temporary folder is fuller than that."""
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def look_at_machine() -> Look:
    """All of them."""
    shm = os.statvfs("/dev/shm")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    disk = shutil.disk_usage(ray_temp())
    return Look(
        findings=(
            check_shared_memory(memory_bytes(), shm.f_bsize * shm.f_bavail),
            check_open_files(soft, hard),
            check_processes(resource.getrlimit(resource.RLIMIT_NPROC)[0]),
            check_disk(str(ray_temp()), disk.total, disk.free),
        )
    )


def memory_bytes() -> int:
    """Of the machine, or of the container where that is less."""
    limits = [Path(path).read_text().strip() for path in CGROUP_LIMITS if Path(path).exists()]
    return min(psutil.virtual_memory().total, *(int(limit) for limit in limits if limit.isdigit()))


def ray_temp() -> Path:
    """The folder that Ray keeps sockets, logs and spilled objects in, or the nearest one that exists."""
    path = Path(os.environ.get("RAY_TMPDIR", "/tmp"))
    return next(place for place in (path, *path.parents) if place.exists())


def check_shared_memory(memory: int, free: int) -> Finding:
    """Whether the object store that Ray makes by default fits /dev/shm."""
    wanted = min(STORE_SHARE * memory, STORE_MOST, max(STORE_ALWAYS, 0.95 * free))
    said = f"{free / GB:.1f} GB free in /dev/shm, {wanted / GB:.1f} GB for Ray's object store"
    if free >= wanted:
        return _finding("shared memory", said)
    return _finding(
        "shared memory",
        f"{said}: it would lie on the disk and be slow",
        cure=f"docker run --shm-size={wanted / GB:.0f}g; in Kubernetes an emptyDir of medium Memory at /dev/shm",
    )


def check_open_files(soft: int, hard: int) -> Finding:
    """Whether a process may open as many files and sockets as Ray needs."""
    soft, hard = (2**31 if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    most = max(soft, min(hard, FILES_RAISED_TO))
    if most >= FILES_NEEDED:
        return _finding("open files", f"{most:,} a process")
    return _finding(
        "open files",
        f"must be >= {FILES_NEEDED:,} a process, got {most:,}",
        cure=f"ulimit -n {FILES_RAISED_TO}; LimitNOFILE= of a service, docker run --ulimit nofile={FILES_RAISED_TO}",
    )


def check_processes(soft: int) -> Finding:
    """Whether a user may have as many processes and threads as a run has."""
    if soft == resource.RLIM_INFINITY or soft >= PROCESSES_NEEDED:
        return _finding("processes", "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,} a user")
    return _finding(
        "processes", f"must be >= {PROCESSES_NEEDED:,} a user, got {soft:,}", cure=f"ulimit -u {4 * PROCESSES_NEEDED}"
    )


def check_disk(path: str, total: int, free: int) -> Finding:
    """Whether Ray can spill objects."""
    said = f"{free / GB:.0f} of {total / GB:.0f} GB free in {path}"
    if free < (1 - FULL_SHARE) * total:
        return _finding(
            "Ray's disk",
            f"{said}: Ray makes no objects on a disk that is more than {FULL_SHARE:.0%} full",
            cure="free some of it, or export RAY_TMPDIR=FOLDER on a larger disk (a short path)",
        )
    if free < FREE_NEEDED:
        cure = "free some of it, or export RAY_TMPDIR=FOLDER on a larger disk (a short path)"
        return Finding(area="machine", check="Ray's disk", level="warning", found=said, cure=cure)
    return _finding("Ray's disk", said)


def _finding(check: str, found: str, *, cure: str = "") -> Finding:
    return Finding(area="machine", check=check, level="problem" if cure else "ok", found=found, cure=cure)
