"""What the ends of kernels have cost, for their users' next servers: kept beside the account.

The pod is gone by then, so nothing in the cluster can say it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ...engines.kubernetes._objects import KernelPlan
from ...errors import SizeError
from ...kernels._private import replace_file
from ...size import Size
from .ruling import Key

__all__ = ["Loss", "read_losses", "write_losses"]

_log = logging.getLogger(__name__)

_FILE = "losses.json"


@dataclass(frozen=True)
class Loss:
    """The row of a kernel that has ended.

    Attributes
    ----------
    instance: the process of its server that had it.
    born: see :class:`Caller <.callers.Caller>`.
    words: what its end has cost, a sentence.
    code: how it ended.
    until: when the row is forgotten, aware.
    """

    key: Key
    attempt: str
    instance: str
    born: str
    size: Size
    kernel_name: str
    path: str | None
    words: str
    code: int
    until: datetime

    @property
    def plan(self) -> KernelPlan:
        """What the kernel was made from, as far as it is told."""
        return KernelPlan(self.key.kernel_id, self.kernel_name, self.size, self.path)


def write_losses(folder: Path, losses: Iterable[Loss]) -> None:
    """Keep these in place of all that were kept.

    Raises
    ------
    OSError
    """
    rows = [
        {
            **each.__dict__,
            "key": list(each.key),
            "size": str(each.size),
            "until": each.until.isoformat(),
        }
        for each in losses
    ]
    replace_file(folder / _FILE, json.dumps(rows).encode())


def read_losses(folder: Path, now: datetime) -> list[Loss]:
    """What an earlier broker has kept, but for what is to be forgotten by now.

    A file that cannot be read tells nothing: no broker fails by it.
    """
    try:
        rows = json.loads((folder / _FILE).read_bytes())
        found = [_read(row) for row in rows]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, SizeError) as error:
        _log.warning("What was lost before cannot be told any more: %s", type(error).__name__)
        return []
    return [each for each in found if each.until > now]


def _read(row: dict[str, Any]) -> Loss:
    texts = {name: str(row[name]) for name in ("attempt", "instance", "born", "kernel_name")}
    user, server, kernel_id = row["key"]
    return Loss(
        key=Key(str(user), str(server), str(kernel_id)),
        size=Size.parse(str(row["size"])),
        path=None if row["path"] is None else str(row["path"]),
        words=str(row["words"]),
        code=int(row["code"]),
        until=datetime.fromisoformat(row["until"]),
        **texts,
    )
