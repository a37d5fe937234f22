"""What a look at something found."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ldlva_dist.errors import redact

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the diagnosis."""

    area: str
    """software, devices, machine, storage or cluster."""
    check: str
    level: Level
    """A warning costs speed or comfort; with a problem something does not work, or is not safe."""
    found: str
    cure: str = ""
    """Thing to do about it; empty where all is well."""

    def __post_init__(self) -> None:
        """No finding shows a password."""
        for name in ("found", "cure"):
            object.__setattr__(self, name, redact(getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look gave."""

    findings: tuple[Finding, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    """Plain values that are compared with those of other looks (compare.py)."""
