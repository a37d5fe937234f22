"""What a bank shard that was lost reads back. Its actor imports this module: no torch here."""

import re

from ldlva_dist.training import checkpoint
from ldlva_dist.training.checkpoint import Checkpoint

_PART = re.compile(r"bank/ids-(\d+)-(\d+)\.safetensors")


def bank_parts(run_uri: str, start: int, stop: int) -> list[bytes]:
    """The parts of a run's newest finished checkpoint that hold any of the ids start..stop-1; none if there is none."""
    uris = (checkpoint.uri_of(run_uri, step) for step in checkpoint.steps_there(run_uri))
    finished = next((uri for uri in uris if checkpoint.is_finished(uri)), None)
    if finished is None:
        return []
    saved = Checkpoint(finished)
    found = [(name, _PART.fullmatch(name)) for name in saved.names("bank")]
    return [saved.read(name) for name, m in found if m and int(m[1]) < stop and start < int(m[2])]
