"""Which checkpoint a run resumes from: the newest one that is whole. Every rank checks a share of its files."""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.saved_files import (
    checkpoint_steps,
    checkpoint_uri,
    checkpoint_uris,
    discard_checkpoint,
    is_finished,
    newest_finished,
)
from ldlva_dist.checkpoint.state_file import UnknownFormatError
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.errors import DataError, SettingError


def newest_whole(run_uri: str, tell: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint of a run of which every file is what its list says; None for a run that has none yet.

    Rank 0 tells of it, and of a newer one that is damaged or was not written to its end. Collective.

    Raises:
        DataError: if checkpoints were finished, and none of them is whole; or one is of an unknown format.
    """
    damaged: list[str] = []
    unfinished: list[str] = []
    chosen = None
    for uri in _from_rank_0(lambda: checkpoint_uris(run_uri)):
        if not _from_rank_0(lambda uri=uri: is_finished(uri)):
            unfinished.append(f"{uri} was not written to its end")
            continue
        chosen, fault = _open_whole(uri)
        if chosen:
            break
        damaged.append(fault)
    if damaged and not chosen:
        raise DataError(f"no checkpoint of {run_uri} is whole: {'; '.join(damaged)}")
    if dist.get_rank() == 0:
        for fault in damaged + unfinished:
            tell(f"{fault}: resuming from {chosen.uri if chosen else 'the beginning'}")
        if chosen and not damaged + unfinished:
            tell(f"resuming from {chosen.uri}")
    return chosen


def starting_point(uri: str) -> Checkpoint:
    """The checkpoint that a new run begins with: the newest finished one of a run, or that checkpoint itself.

    Collective.

    Raises:
        SettingError: if there is none.
    """
    found = _from_rank_0(lambda: newest_finished(uri))
    if found is None:
        raise SettingError(f"training.start_from must be a run with a finished checkpoint, got {uri}")
    return Checkpoint.open(found)


def require_fitting(run_uri: str, info: DatasetInfo, plan_version: int) -> None:
    """Refuse, before a worker starts, a run whose newest readable checkpoint cannot be resumed from.

    Raises:
        SettingError: if the data set is not what the run was trained on.
        DataError: if the checkpoint is of another format, or its run dealt out the samples by other rules.
    """
    for uri in checkpoint_uris(run_uri):
        try:
            newest = Checkpoint.open(uri)
            newest.require_data_set(info)
        except UnknownFormatError:
            raise
        except DataError:  # unfinished or damaged: the workers say so, and look at the one before too
            continue
        newest.require_plan(plan_version)
        return


def roll_back(run_uri: str, step: int) -> None:
    """Delete checkpoints of later steps: leftovers of a lineage that did not survive."""
    for later in checkpoint_steps(run_uri):
        if later > step:
            discard_checkpoint(checkpoint_uri(run_uri, later))


def _open_whole(uri: str) -> tuple[Checkpoint | None, str]:
    """A checkpoint, or what is wrong with it, the same on all ranks; the files to check are dealt out by size."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    saved, fault = None, ""
    try:
        saved = Checkpoint.open(uri)
        by_size = sorted(saved.names(), key=saved.size, reverse=True)
        for name in by_size[rank::world_size]:
            saved.check(name)
    except UnknownFormatError:
        raise
    except DataError as error:
        fault = str(error)
    found = [""] * world_size
    dist.all_gather_object(found, fault)
    first = next(filter(None, found), "")
    return None if first else saved, first


def _from_rank_0(ask: Callable[[], Any]) -> Any:
    """What rank 0 sees on the storage, so that all ranks go the same way."""
    answer = [ask() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(answer, src=0)
    return answer[0]
