"""When those who wait may have a share, by what is known of idle ones. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ..engines.base import Snapshot

__all__ = ["turns"]


def turns(snapshot: Snapshot, leaving: Sequence[tuple[datetime, str]]) -> dict[str, datetime]:
    """The moment at which idle shares that go back make room, by the id of each that waits.

    Who would be served as things are is left out, as is who would not be served by all of them.

    Parameters
    ----------
    leaving: idle kernels, each with the moment at which its share goes back if nothing changes.
    """
    waiting = snapshot.waiting
    found: dict[str, datetime] = {}
    if not waiting:
        return found
    seen = set(snapshot.served(()))
    freed: list[str] = []
    for at, kernel_id in sorted(leaving):
        if len(seen) == len(waiting):
            break
        freed.append(kernel_id)
        for index in snapshot.served(freed):
            waiter = waiting[index].kernel_id
            if index not in seen and waiter is not None:
                found[waiter] = at
            seen.add(index)
    return found
