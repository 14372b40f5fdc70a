"""What one kernel asks for or holds, as the broker's decisions see it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from ..size import Size

__all__ = ["Claim", "words_of"]


@dataclass(frozen=True)
class Claim:
    """The claim of one kernel. Times are aware; user and groups are proven, never told.

    Attributes
    ----------
    groups: of the user, as the machine or the Hub knows them.
    server: of the user's servers the one that asked; empty for a console and the like.
    size: as it was asked for.
    gpus: the same in GPUs, all devices together.
    memory_bytes: the same in bytes, all devices together.
    asked_at: since when it waits, or did before it was served.
    held_since: since when it has its share; None while it has none.
    idle_since: since when nobody uses the share; None while it is used.
    keep_until: until when the user keeps the share even if it is not used.
    kept: whether giving the share back would keep the variables.
    passed_since: when a claim behind this one was first served before it; None where none was.
    name: the kernel's id as its user knows it, where ``kernel_id`` names the user, too; else empty.
    lent: the kernel has given its share back and lives on without it.
    process, number: of the server's processes the one that asked, and which of its starts it is, by
        its own word: it orders what that process has in line, and nothing else.
    """

    user: str
    kernel_id: str
    size: Size
    gpus: Fraction
    memory_bytes: int
    asked_at: datetime
    groups: frozenset[str] = frozenset()
    server: str = ""
    held_since: datetime | None = None
    idle_since: datetime | None = None
    keep_until: datetime | None = None
    kept: bool = True
    passed_since: datetime | None = None
    name: str = ""
    lent: bool = False
    process: str = ""
    number: int | None = None

    @property
    def shown(self) -> str:
        """The kernel's id as its user knows it."""
        return self.name or self.kernel_id

    def is_within(self, other: Claim) -> bool:
        """Whether it asks for no more than another one of the same kernel."""
        return self.gpus <= other.gpus and self.memory_bytes <= other.memory_bytes


def words_of(amount: Fraction) -> str:
    """An amount of GPUs or hours for people: exact where that is short, else two decimals."""
    if amount.denominator <= 64:
        whole, rest = divmod(amount, 1)
        if not rest:
            return str(whole)
        if not whole:
            return str(rest)
    return f"{float(amount):.2f}".rstrip("0").rstrip(".")
