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
    limit: what ours may be at most, worked out from the peer; None where it is told, no more.
    goal: the rule for the limit, in words.
    """

    name: str
    unit: str
    ours: float
    peer: float | None
    limit: float | None = None
    goal: str = ""

    @property
    def reached(self) -> bool:
        """Whether ours is within the limit, if there is one."""
        return self.limit is None or self.ours <= self.limit

    def to_json(self) -> dict[str, Any]:
        """The row in ``build/bench.json``."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": round(self.ours, 4),
            "peer": None if self.peer is None else round(self.peer, 4),
            "limit": None if self.limit is None else round(self.limit, 4),
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
        judged = "reached" if row.reached else "MISSED"
        lines.append(
            [
                f"{row.name} [{row.unit}]",
                f"{row.ours:.2f}",
                _shown(row.peer),
                _shown(row.limit),
                row.goal,
                judged if row.limit is not None else "",
            ]
        )
    widths = [max(len(line[n]) for line in lines) for n in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.2f}"
