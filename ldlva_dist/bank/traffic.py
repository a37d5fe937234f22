"""What the lookups of one training worker cost, counted since the last log line."""

from dataclasses import dataclass


@dataclass(slots=True)
class Traffic:
    """Counts of one client; whoever logs them sets them back."""

    busy_s: float = 0.0
    """Seconds that the training thread spent in the client: sending, waiting, putting answers together."""
    shard_s: float = 0.0
    """Seconds from a question's arrival at the slowest shard to its answer, waiting for other ranks included."""
    bytes_read: int = 0
    bytes_written: int = 0

    def drain(self) -> "Traffic":
        """The counts so far; counting begins anew."""
        counted = Traffic(self.busy_s, self.shard_s, self.bytes_read, self.bytes_written)
        self.busy_s = self.shard_s = 0.0
        self.bytes_read = self.bytes_written = 0
        return counted
