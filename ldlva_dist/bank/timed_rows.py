"""The rows of one range of ids at their times: the bank's rule of time is here.

**A read for step t sees exactly all ranks' writes of the steps up to t - 2**, never more or less. In every step every
rank sends one read and one write. Writes of step s stay apart until all of them and all reads of step s + 1 have come,
and then become visible together; a read that comes too early waits. After the loss of a shard with ``on_loss=continue``
its rows are those of the last checkpoint until the writes that follow are visible.

n = rows, r = bytes of a record, V = feature width.
"""

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.bank.copy_on_write import BankSnapshot, CopyOnWriteRows, RowsAsOf
from ldlva_dist.bank.graph_versions import GraphVersions
from ldlva_dist.bank.ledger import Ledger
from ldlva_dist.bank.records import BankRows, BankSpec, Write, as_records, blank, merge_writes
from ldlva_dist.errors import NeighborServiceError


class TimedRows:
    """All rows of a shard during one attempt, at every time that somebody may still ask for.

    With v the last step whose writes are visible there are

    - the visible rows: with the writes of v, as a read of step v + 2 sees them;
    - the previous rows: those that the writes of v replaced, as a read of step v + 1 saw them;
    - the pending writes: those of v + 1 and later that have come; they wait in the ledger;
    - rows that are kept: all of them as a read of one step saw them, copied on write until a checkpoint is written, or
      their features are handed out.
    """

    def __init__(self, name: str, ledger: Ledger, visible: BankRows, pending: BankRows, spec: BankSpec) -> None:
        """Rows of an attempt that begins.

        Args:
            name: Of the shard, for errors.
            ledger: Messages of the attempt; none has come.
            visible: Rows as a read of the attempt's first step sees them.
            pending: Writes of the step before the first, out of a checkpoint.
            spec: Form of the rows.
        """
        self._name, self._ledger, self._spec = name, ledger, spec
        self._visible, self._restored = visible, pending
        self._previous = self._latest = self._no_rows = blank(0, 0, spec)
        self.snapshot: BankSnapshot | None = None
        """Rows that are kept for a checkpoint."""
        self.kept_features: RowsAsOf | None = None
        """Rows that are kept for a graph of their features."""

    @property
    def token(self) -> str:
        """Name of the attempt."""
        return self._ledger.token

    @property
    def after_loss(self) -> bool:
        """Whether an earlier actor with this shard's rows was lost in the attempt."""
        return self._ledger.after_loss

    @property
    def records(self) -> NDArray[np.void]:
        """[n] the visible rows; another write or read may change them."""
        return self._visible.records

    def fill(self, ids: NDArray[np.int64], rows: NDArray[np.uint8]) -> None:
        """Overwrite the visible rows of distinct ids [n] with records [n, r], before the first read and write."""
        if not self._ledger.is_new():
            raise NeighborServiceError(f"{self._name} is to be filled before the first read and write of an attempt")
        order = np.argsort(ids)
        records = as_records(rows.take(order, axis=0), self._spec.record)
        records["versions"] = self._ledger.first
        self._visible.assign(BankRows(ids=ids[order], records=records))

    def write(self, rank: int, write: Write) -> None:
        """Take one rank's outputs of a step; the only ones of that rank and step."""
        if not self._ledger.lost(write.step):
            self._ledger.note_write(rank, write)
            self._advance()

    def can_read(self, step: int) -> bool:
        """Whether all that a read of the step must see is visible."""
        return self._ledger.visible >= step - 2

    def require_read(self, step: int, rank: int) -> None:
        """Refuse a read that :meth:`can_read` if it is the rank's second one of the step, or too late."""
        is_over = self._ledger.visible > step - 2 or rank in self._ledger.reads.get(step, ())
        if is_over and not self._ledger.lost(step):
            raise NeighborServiceError(f"{self._name}: rank {rank} asked for step {step} twice or after it was over")

    def finish_read(self, step: int, rank: int) -> None:
        """Count a read whose answer was copied out of the visible rows."""
        if not self._ledger.lost(step):
            self._ledger.note_read(step, rank)
            self._advance()

    def has_writes_before(self, step: int) -> bool:
        """Whether all writes of the steps before this one have come: then the rows as of the step are known."""
        return self._ledger.has_come(step - 1)

    def take_snapshot(self, step: int, graphs: GraphVersions) -> None:
        """Keep the rows as of a step from here on, in place of those that were kept before."""
        previous, pending = self._as_of(step, f"the snapshot of step {step}")
        self.drop_snapshot()
        rows = CopyOnWriteRows(self._visible, previous)
        self.snapshot = BankSnapshot(step=step, rows=rows, pending=pending, graphs=graphs)

    def drop_snapshot(self) -> None:
        """Keep no rows for a checkpoint any more; whoever reads them on fails."""
        if self.snapshot:
            self.snapshot.rows.release()
        self.snapshot = None

    def keep_features(self, step: int) -> None:
        """Keep the rows as of a step from here on for a graph of their features."""
        previous, pending = self._as_of(step, f"the features of step {step}")
        self.drop_features()
        self.kept_features = RowsAsOf(step=step, rows=CopyOnWriteRows(self._visible, previous), pending=pending)

    def drop_features(self) -> None:
        """Keep no rows for a graph any more; whoever reads them on fails."""
        if self.kept_features:
            self.kept_features.rows.release()
        self.kept_features = None

    def drop_all(self) -> None:
        """Keep no rows any more."""
        self.drop_snapshot()
        self.drop_features()

    def missing(self) -> str:
        """Ranks whose messages hold up the next step's writes."""
        return self._ledger.missing()

    def _as_of(self, step: int, what: str) -> tuple[BankRows, BankRows]:
        """The difference between the visible rows and those as of a step that :meth:`has_writes_before`.

        Returns:
            previous: Rows already overwritten since the step, with their values as of it.
            pending: Writes of step - 1, which reads see from step + 1 on.
        """
        if self._ledger.lost(step):
            return self._no_rows, self._no_rows
        if self._ledger.visible == step - 1:  # another rank is a step ahead
            return self._previous, self._latest
        if self._ledger.visible != step - 2:
            raise NeighborServiceError(f"{self._name}: {what} was asked for after it was over")
        return self._no_rows, self._pending(step - 1)

    def _pending(self, step: int) -> BankRows:
        """All ranks' outputs of a step whose writes are not visible yet."""
        return self._restored if step < self._ledger.first else merge_writes(self._ledger.writes_of(step), self._spec)

    def _advance(self) -> None:
        """Make visible what is due; what the last step replaced stays for snapshots and features."""
        while self._ledger.is_due():
            self._latest = self._pending(self._ledger.visible + 1)
            for kept in (self.snapshot, self.kept_features):
                if kept:
                    kept.rows.keep(self._latest.ids)
            self._previous = self._visible.overwrite(self._latest, self._spec.momentum)
            self._ledger.pass_step()
