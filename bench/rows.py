"""What a benchmark yields, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes
    ----------
    ours, peer: what was measured, in ``unit``; medians unless the name says otherwise.
    limit: what ours may be at most, worked out from the peer.
    goal: the rule for the limit, in words.
    """

    name: str
    unit: str
    ours: float
    peer: float | None
    limit: float
    goal: str

    @property
    def reached(self) -> bool:
        """Whether ours is within the limit."""
        return self.ours <= self.limit

    def to_json(self) -> dict[str, Any]:
        """The row in ``build/bench.json``."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": round(self.ours, 4),
            "peer": None if self.peer is None else round(self.peer, 4),
            "limit": round(self.limit, 4),
            "goal": self.goal,
            "reached": self.reached,
        }


def times(factor: float, peer: float) -> tuple[float, str]:
    """A limit relative to the peer."""
    return factor * peer, f"at most {factor:g} x peer"


def plus(amount: float, peer: float, unit: str) -> tuple[float, str]:
    """A limit above the peer."""
    return peer + amount, f"at most {amount:g} {unit} above peer"


def draw(rows: Sequence[Row]) -> str:
    """A table for people."""
    header = ["", "ours", "peer", "limit", "goal", ""]
    lines = [header]
    for row in rows:
        peer = "-" if row.peer is None else f"{row.peer:.2f}"
        lines.append(
            [
                f"{row.name} [{row.unit}]",
                f"{row.ours:.2f}",
                peer,
                f"{row.limit:.2f}",
                row.goal,
                "reached" if row.reached else "MISSED",
            ]
        )
    widths = [max(len(line[n]) for line in lines) for n in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
