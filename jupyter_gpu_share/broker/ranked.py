"""The broker's ledger: who waits is served in the order of :mod:`.order`, not of arrival.

The order is found in the transaction that gives shares, so nothing comes in between. What it has to
know of the past is kept beside the claims, and outlives the broker.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path

from ..engines.idle_shares import IdleShare
from ..engines.local._contents import size_of
from ..engines.local._gpu import Gpu
from ..engines.local._ledger import Ledger
from ..engines.local._placement import Piece
from . import _idle_table
from .claim import Claim
from .demand import demand
from .idle import Promise
from .order import PATIENCE, line, passed_by

__all__ = ["RankedLedger"]

_TABLE = """
CREATE TABLE IF NOT EXISTS passed (
    token TEXT PRIMARY KEY REFERENCES claims(token) ON DELETE CASCADE, since TEXT NOT NULL
)
"""


def _now() -> datetime:
    return datetime.now(timezone.utc)


class RankedLedger(Ledger):
    """A ledger in which whoever has least comes first.

    Parameters
    ----------
    user_of: the user whose claim it is, by the claim's ``kernel_id``.
    mean: the GPUs that a user held of late, at a moment.
    patience: for how long others may pass a claim for which there is no room.
    clock: the time now, aware.
    """

    def __init__(
        self,
        path: Path,
        *,
        user_of: Callable[[str], str],
        mean: Callable[[str, datetime], float],
        patience: timedelta = PATIENCE,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._user_of = user_of
        self._mean = mean
        self._patience = patience
        self._clock = clock
        super().__init__(path)

    def _open(self) -> None:
        super()._open()
        self._db.execute(_TABLE)
        self._db.execute(_idle_table.TABLE)

    def idle(self) -> dict[str, tuple[IdleShare, Promise | None]]:
        """What was last kept of idle shares, by the claims' ``kernel_id``."""
        with self._reading():
            return _idle_table.read(self._db)

    def keep_idle(self, rows: Mapping[str, tuple[IdleShare, Promise | None]]) -> None:
        """Keep this of idle shares in place of what was kept before."""
        with self._transaction():
            _idle_table.write(self._db, rows)

    def _line(self, rows: Sequence[sqlite3.Row], gpus: Sequence[Gpu]) -> Mapping[str, bool] | None:
        if all(row["held"] for row in rows):
            return None
        passed = dict(self._db.execute("SELECT token, since FROM passed").fetchall())
        amounts: dict[str, tuple[Fraction, int]] = {}
        held: dict[str, float] = {}
        waiting: list[Claim] = []
        last = datetime.min.replace(tzinfo=timezone.utc)
        for row in rows:
            size, user = size_of(row), self._user_of(row["kernel_id"])
            if row["size"] not in amounts:
                amounts[row["size"]] = demand(size, gpus)
            amount, memory = amounts[row["size"]]
            if row["held"]:
                held[user] = held.get(user, 0.0) + float(amount)
                continue
            # In the order of arrival, also where the clock was set back.
            last = max(last, datetime.fromisoformat(row["since"]))
            since = passed.get(row["token"])
            waiting.append(
                Claim(
                    user=user,
                    kernel_id=row["token"],
                    size=size,
                    gpus=amount,
                    memory_bytes=memory,
                    asked_at=last,
                    passed_since=None if since is None else datetime.fromisoformat(since),
                )
            )
        now = self._clock()
        turns = line(waiting, held, lambda user: self._mean(user, now), now, self._patience)
        return {turn.claim.kernel_id: turn.overdue for turn in turns}

    def _served(self, line: Sequence[str], granted: Mapping[str, tuple[Piece, ...]]) -> None:
        taken = {token: bool(pieces) for token, pieces in granted.items()}
        now = self._clock().isoformat()
        self._db.executemany(
            "INSERT INTO passed VALUES (?, ?) ON CONFLICT (token) DO NOTHING",
            [(token, now) for token in passed_by(line, taken)],
        )
