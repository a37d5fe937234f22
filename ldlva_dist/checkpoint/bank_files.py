"""What a bank shard that was lost reads back. Its actor imports this module: no torch here."""

from ldlva_dist.checkpoint import checkpoint
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.storage.checksums import Files

BANK_FOLDER = "bank"


def bank_files(run_uri: str) -> Files:
    """The bank's files in a run's newest finished checkpoint; none if there is none."""
    uris = (checkpoint.uri_of(run_uri, step) for step in checkpoint.steps_there(run_uri))
    finished = next((uri for uri in uris if checkpoint.is_finished(uri)), None)
    return Checkpoint(finished).files(BANK_FOLDER) if finished else {}
