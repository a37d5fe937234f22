"""A clock that is wrong on one host alone: Linux gives each host its own clocks but for the one that tells the time.

What Python reads of it is shifted, by a library of a few lines that is loaded before libc: signatures, names of files,
and whatever this project compares. What compiled libraries read stays right, and so do the times of files: they wait on
the kernel's clock, and would wait an hour too long.
"""

import shutil
import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int from_python(void *caller) {
    Dl_info info;
    if (!dladdr(caller, &info) || !info.dli_fname) return 0;
    return strstr(info.dli_fname, "python") && !strstr(info.dli_fname, "site-packages");
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    const char *shift = getenv("CLOCK_SHIFT_S");
    if (!failed && clock == CLOCK_REALTIME && shift && from_python(__builtin_return_address(0)))
        now->tv_sec += atol(shift);
    return failed;
}
"""


def can_build() -> bool:
    """Whether there is a compiler."""
    return shutil.which("cc") is not None


def shifted_clock(disk: Path, seconds: int) -> dict[str, str]:
    """Variables that shift the clock of a process and those that it starts, on the host of this disk."""
    source, library = disk / "wrong_clock.c", disk / "wrong_clock.so"
    source.write_text(SOURCE)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": "/tmp/wrong_clock.so", "CLOCK_SHIFT_S": str(seconds)}
