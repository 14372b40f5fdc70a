"""Idle shares and promises in the broker's ledger, beside the claims that they are about."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime

from ..engines.idle_shares import IdleShare
from .idle import Promise

__all__ = ["TABLE", "read", "write"]

TABLE = """
CREATE TABLE IF NOT EXISTS idle (
    token TEXT PRIMARY KEY REFERENCES claims(token) ON DELETE CASCADE,
    since TEXT NOT NULL, keep_until TEXT, kept INTEGER NOT NULL, leaving INTEGER NOT NULL,
    asked TEXT, due TEXT
)
"""


def read(db: sqlite3.Connection) -> dict[str, tuple[IdleShare, Promise | None]]:
    """By the claims' ``kernel_id``."""
    rows = db.execute("SELECT idle.*, kernel_id FROM idle JOIN claims USING (token)").fetchall()
    return {
        row["kernel_id"]: (
            IdleShare(
                datetime.fromisoformat(row["since"]),
                _moment(row["keep_until"]),
                bool(row["kept"]),
                bool(row["leaving"]),
            ),
            Promise(datetime.fromisoformat(row["asked"]), datetime.fromisoformat(row["due"]))
            if row["asked"]
            else None,
        )
        for row in rows
    }


def write(db: sqlite3.Connection, rows: Mapping[str, tuple[IdleShare, Promise | None]]) -> None:
    """Put these in place of all that is there. Claims that have ended are left out."""
    db.execute("DELETE FROM idle")
    db.executemany(
        "INSERT INTO idle SELECT token, ?, ?, ?, ?, ?, ? FROM claims WHERE kernel_id = ?",
        [
            (
                word.since.isoformat(),
                _text(word.keep_until),
                word.kept,
                word.leaving,
                _text(promise.asked if promise is not None else None),
                _text(promise.due if promise is not None else None),
                name,
            )
            for name, (word, promise) in rows.items()
        ],
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
