"""How the last job in the folder of a run or sweep ended: FOLDER/outcome.json, which jobs/status.py reads.

Written by the job that holds the folder, and removed when one begins: where there is none, a job is at work or was
ended without a word. `ray job submit` itself says no more than 0 or 1.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Literal

from ldlva_dist import storage
from ldlva_dist.errors import LdlvaError, RunLost, RunStopped, SettingError, redact
from ldlva_dist.run.lease import find_holder
from ldlva_dist.values.typed_json import build_dataclass, parse_object

OUTCOME = "outcome.json"
INTERRUPTED, IN_PROGRESS, KILLED = 130, 5, 4
State = Literal["finished", "stopped", "failed", "in progress"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job."""

    outcome: State
    exit_code: int
    """Code that the job ended with; 5 for one in progress."""
    sentence: str
    when: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
    """End of the job, or now for one in progress."""


@contextmanager
def recorded(folder: str) -> Iterator[Callable[[str], None]]:
    """Write down how the block ends, in a folder that this job holds; the block says what it has done.

    A folder that is lost meanwhile is another job's, or nobody's: nothing is written there.
    """
    uri = storage.join(folder, OUTCOME)
    if storage.exists(uri):
        storage.delete_file(uri)
    done: list[str] = []
    try:
        yield done.append
    except RunLost:
        raise
    except BaseException as error:
        with suppress(LdlvaError):  # what ended the run counts more than a store that fails, too
            storage.write_bytes(uri, _to_json(_of_error(error)))
        raise
    storage.write_bytes(uri, _to_json(Outcome(outcome="finished", exit_code=0, sentence=" ".join(done))))


def read_outcome(folder: str) -> Outcome:
    """How the last job in the folder of a run or sweep ended, or that one is at work there.

    Args:
        folder: Its uri.

    Returns:
        The outcome; exit code 5 for a job in progress, 4 for one that was ended without a word.

    Raises:
        SettingError: for a folder in which no job has begun.
        DataError: for a damaged file.
    """
    uri = storage.join(folder, OUTCOME)
    if storage.exists(uri):
        return build_dataclass(Outcome, parse_object(storage.read_bytes(uri), uri), uri)
    if holder := find_holder(folder):
        return Outcome(outcome="in progress", exit_code=IN_PROGRESS, sentence=f"a job is at work: {holder}")
    if not storage.list_folder(folder):
        raise SettingError(f"--run must be the folder of a run or sweep that has begun, got {folder}")
    sentence = "the last job ended without a word, as one does that is killed; run the same command again to resume"
    return Outcome(outcome="failed", exit_code=KILLED, sentence=sentence)


def _of_error(error: BaseException) -> Outcome:
    said = redact(str(error)).strip()
    if isinstance(error, RunStopped | KeyboardInterrupt):
        return Outcome(outcome="stopped", exit_code=INTERRUPTED, sentence=said or "interrupted")
    if isinstance(error, LdlvaError):
        return Outcome(outcome="failed", exit_code=error.exit_code, sentence=said)
    return Outcome(outcome="failed", exit_code=1, sentence=f"{type(error).__name__}: {said}")


def _to_json(outcome: Outcome) -> bytes:
    return (json.dumps(asdict(outcome), indent=2) + "\n").encode()
