"""The rows of one rank's range of ids in the memory of its device, and the rule of time where ranks go in step.

All ranks read, then write, then read the next step. So nothing has to be counted or waited for, as the actors must
(``timed_rows.py``): the writes of a step are kept apart until those of the next step come, and are visible from then
on. A read of step t then sees the writes of the steps up to t - 2, and a checkpoint needs nothing from before.

m = rows, n = rows held.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ldlva_dist.bank.checkpoint_parts import RestoredRows
from ldlva_dist.bank.on_workers.record_tensors import LANE, as_rows, field, lanes_of, put, record_lanes, whole_rows
from ldlva_dist.bank.records import BankRows, BankSpec, Write, merge_writes
from ldlva_dist.messages import NEVER


@dataclass(frozen=True, kw_only=True)
class PendingWrites:
    """All ranks' outputs of one step for this rank's rows."""

    step: int
    rows_m: Tensor
    """Places among the rows held; one may stand more than once."""
    lanes: Tensor
    """[m, record] with each one's place in the global batch instead of its version."""
    coming: dist.Work | None = None
    """What brings them; None where they are here."""

    def wait(self) -> None:
        """Wait until they are here; on a GPU the device does, not the host."""
        if self.coming:
            self.coming.wait()


@dataclass(frozen=True, kw_only=True)
class RowsOfStep:
    """A copy of the rows in the host's memory, for a checkpoint."""

    step: int
    visible: BankRows
    pending: BankRows


class RankRows:
    """The rows of ids start, start + 1, ... at the times that somebody may still ask for."""

    def __init__(self, restored: RestoredRows, static: NDArray[np.void], spec: BankSpec, device: torch.device) -> None:
        """Rows as a read of the first step must see them; what never changes about them is in ``static`` [n]."""
        self._spec, self._ids, self._lanes = spec, restored.visible.ids, record_lanes(spec)
        self._rows = whole_rows(restored.visible, static, spec).to(device)
        self._pending = self._restored(restored.pending, device)

    def read(self, rows_m: Tensor) -> Tensor:
        """Lanes [m, row] of some rows, for the step after the one that was written last but one."""
        return self._rows.index_select(0, rows_m)

    def write(self, writes: PendingWrites) -> None:
        """Take all ranks' outputs of a step: those of the step before become visible."""
        self._show(self._pending)
        self._pending = writes

    def fill(self, rows_m: Tensor, lanes: Tensor) -> None:
        """Overwrite distinct rows before the first read."""
        self._rows[:, : self._lanes].index_copy_(0, rows_m, lanes)

    def as_of_now(self, step: int) -> RowsOfStep:
        """A copy of the rows as a read of ``step``, the next one, sees them, and of the writes of the step before."""
        visible, writes = torch.empty(self._rows.shape, dtype=torch.int64).copy_(self._rows), self._pending
        writes.wait()
        lanes = writes.lanes.cpu().contiguous()
        write = Write(
            step=writes.step,
            positions=lanes[:, 0].numpy().astype(np.int32),
            ids=self._ids[writes.rows_m.cpu().numpy()],
            rows=lanes.numpy().view(np.uint8).reshape(len(lanes), self._lanes * LANE),
        )
        pending = merge_writes([write], self._spec)
        pending.records["versions"] = writes.step
        rows = BankRows(ids=self._ids, records=as_rows(visible[:-1], self._spec))
        return RowsOfStep(step=step, visible=rows, pending=pending)

    def _restored(self, pending: BankRows, device: torch.device) -> PendingWrites:
        """Writes out of a checkpoint; each id stands there once."""
        places = np.searchsorted(self._ids, pending.ids)
        step = int(pending.records["versions"].max(initial=NEVER))
        lanes = lanes_of(pending.records, self._spec).to(device)
        return PendingWrites(step=step, rows_m=torch.from_numpy(places).to(device), lanes=lanes)

    def _show(self, writes: PendingWrites) -> None:
        """Make writes visible; of a row that stands there twice the one of the highest place in the global batch."""
        writes.wait()
        if not len(writes.rows_m):
            return
        order_m = torch.argsort((writes.rows_m << 32) + writes.lanes[:, 0])
        rows_m, lanes = writes.rows_m[order_m], writes.lanes[order_m]
        lanes[:, 0] = writes.step
        if self._spec.momentum:
            self._mix(lanes, self.read(rows_m))
        is_last_m = torch.ones(len(rows_m), dtype=torch.bool, device=rows_m.device)
        torch.ne(rows_m[1:], rows_m[:-1], out=is_last_m[:-1])
        # The others go to the row that is no sample's, so that no shape follows from values.
        self._rows[:, : self._lanes].index_copy_(0, rows_m.where(is_last_m, len(self._ids)), lanes)

    def _mix(self, lanes: Tensor, before: Tensor) -> None:
        """Mix new probabilities with the old, where there are some; see ``BankRows.overwrite``."""
        momentum, spec = self._spec.momentum, self._spec
        old_mC, new_mC = field(before, "probs", spec).float(), field(lanes, "probs", spec).float()
        was_written_m = field(before, "versions", spec) != NEVER
        mixed_mC = momentum * old_mC + (1 - momentum) * new_mC
        put(lanes, "probs", mixed_mC.where(was_written_m[:, None], new_mC), spec)
