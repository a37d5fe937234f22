"""The bank's rule of time: which messages have come, what becomes visible when, and what a rank may do next."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ldlva_dist.bank.records import Write
from ldlva_dist.errors import NeighborServiceError


@dataclass
class Ledger:
    """Which messages of one attempt have come, and up to which step writes are visible."""

    token: str
    world_size: int
    first: int
    """The step at which the attempt began; what was written before came from a checkpoint."""
    after_loss: bool = False
    """Whether the attempt had begun before: messages of earlier steps may come, and count for nothing."""
    visible: int = field(init=False)
    """The last step whose writes are visible."""
    reads: dict[int, set[int]] = field(default_factory=dict)
    writes: dict[int, dict[int, Write]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.visible = self.first - 2

    def is_new(self) -> bool:
        """Whether nothing has come yet."""
        return self.visible == self.first - 2 and not self.reads and not self.writes

    def lost(self, step: int) -> bool:
        """Whether messages of the step are of the time that went with a lost shard."""
        return self.after_loss and step < self.first

    def lacks_writes(self, step: int) -> list[int]:
        """Ranks whose write of the step has not come."""
        return self._lacks(step, self.writes)

    def lacks_reads(self, step: int) -> list[int]:
        """Ranks whose read of the step has not been answered."""
        return self._lacks(step, self.reads)

    def has_come(self, step: int) -> bool:
        """Whether all writes up to the step have come."""
        return self.visible >= step or (self.visible == step - 1 and not self.lacks_writes(step))

    def note_read(self, step: int, rank: int) -> None:
        """An answer was given."""
        self.reads.setdefault(step, set()).add(rank)

    def note_write(self, rank: int, write: Write) -> None:
        """Outputs have come; a second write of a rank in one step is refused."""
        step = write.step
        if step <= self.visible or step < self.first or rank in self.writes.get(step, ()):
            raise NeighborServiceError(f"rank {rank} wrote step {step} twice or after it was over")
        self.writes.setdefault(step, {})[rank] = write

    def writes_of(self, step: int) -> list[Write]:
        """What has come for a step that is not visible yet."""
        return list(self.writes.get(step, {}).values())

    def is_due(self) -> bool:
        """Whether nobody can ask any more for the bank without the next step's writes."""
        return not self.lacks_writes(self.visible + 1) and not self.lacks_reads(self.visible + 2)

    def pass_step(self) -> None:
        """The next step's writes are visible now."""
        self.visible += 1
        self.writes.pop(self.visible, None)
        self.reads.pop(self.visible + 1, None)

    def missing(self) -> str:
        """Whose messages hold up the next step's writes."""
        step = self.visible + 1
        late = (("writes", step, self.lacks_writes(step)), ("reads", step + 1, self.lacks_reads(step + 1)))
        return ", ".join(f"{kind} of step {at} are missing from ranks {ranks}" for kind, at, ranks in late if ranks)

    def _lacks(self, step: int, come: Mapping[int, Collection[int]]) -> list[int]:
        return [] if step < self.first else sorted(set(range(self.world_size)) - set(come.get(step, ())))


class StepOrder:
    """Order of one rank's calls over all steps. One out of order would wait for itself; it is refused instead.

    Rows are asked for, collected and written for one step after the other. Those of step t may be asked for once
    step t - 2 is written: a read of t sees the writes up to there.
    """

    def __init__(self) -> None:
        self._first: int | None = None
        self._to_ask = self._to_collect = self._to_write = 0

    def ask(self, step: int) -> None:
        """Rows of a step are about to be asked for."""
        if self._first is None:
            self._first = self._to_ask = self._to_collect = self._to_write = step
        assert step == self._to_ask, f"step {self._to_ask} is the next to ask for, not {step}"
        assert step < self._to_write + 2, f"step {self._to_write} must be written before {step} is asked for"
        self._to_ask += 1

    def collect(self, step: int) -> None:
        """Rows of a step are about to be waited for."""
        assert step == self._to_collect < self._to_ask, f"step {self._to_collect} is the next to collect, not {step}"
        self._to_collect += 1

    def write(self, step: int) -> None:
        """Outputs of a step are about to be stored."""
        assert step == self._to_write < self._to_collect, f"step {self._to_write} is the next to write, not {step}"
        self._to_write += 1

    def stand_before(self, step: int) -> None:
        """The rows as of a step are about to be kept or taken: step - 1 is written, step + 1 is not asked for."""
        is_between = self._to_write == step and self._to_ask <= step + 1
        assert self._first is None or is_between, (
            f"step {self._to_write} is the next to write, {self._to_ask} to ask for"
        )
