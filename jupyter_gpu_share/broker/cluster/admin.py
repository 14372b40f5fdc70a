"""What administrators see and do about the shares of all users of a cluster."""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from ..._threads import in_thread
from ...engines.base import Capacity
from ..account_text import COLUMNS, safe
from ..claim import Claim
from ..idle import GRACE
from ..metrics import Machine, metrics_text
from .names import key_of
from .refusals import NoKernel
from .rules import Rules
from .ruling import Key
from .seeing import Kernels

__all__ = ["Administration"]

_log = logging.getLogger(__name__)


class Administration:
    """For one event loop. Who asks was proven to be an administrator, but for what is one's own."""

    def __init__(self, rules: Rules, kernels: Kernels) -> None:
        self._rules = rules
        self._kernels = kernels

    # -- what is seen ----------------------------------------------------------------------------

    def everything(self, user: str | None = None) -> list[dict[str, Any]]:
        """All kernels of all users, or of one, who hears no name of anybody else.

        Each with ``user``, ``server``, ``kernel_id``, ``size``, ``state`` (``held``, ``waiting`` or
        ``lent``), ``share`` (as its server is told it), ``held_since``, ``idle_seconds``,
        ``asked_back``, ``keep_until``, ``promise`` and ``room_at``, and with what its server is
        told of it.
        """
        rules, now = self._rules, self._rules.clock()
        since, idle = rules.held_since(), rules.idle.since(now)
        known = rules.holdings.known
        rows = dict(self._kernels.rows())
        found = []
        for key, row in rows.items():
            claim = known.get(key.text)
            if claim is None or (user is not None and key.user != user):
                continue
            share, began = row.get("share"), since.get(key.text)
            found.append(
                {
                    "user": key.user,
                    "server": key.server,
                    "kernel_id": key.kernel_id,
                    "size": str(claim.size),
                    "state": _state(claim),
                    "queue": row.get("queue") or {"position": 0, "of": 0},
                    "reason": row.get("reason") or "",
                    "share": share,
                    "pieces": _pieces(share),
                    "info": {
                        "user": key.user,
                        "server": key.server,
                        "path": row.get("path"),
                        "kernel_name": row.get("kernel_name"),
                    },
                    "held_since": _text(began),
                    "idle_seconds": (now - idle[key.text]).total_seconds()
                    if key.text in idle
                    else None,
                    "asked_back": self._rules.orders.is_asked(key.text),
                    **self._promised(key, rows, user),
                }
            )
        return found

    def _promised(
        self, key: Key, rows: Mapping[Key, Mapping[str, Any]], user: str | None
    ) -> dict[str, Any]:
        idle = self._rules.idle
        promise = idle.promises.get(key.text)
        rooms = (each.due for each in idle.promises.values() if key.text in each.to)
        found: dict[str, Any] = {
            "keep_until": _text(idle.kept_until(key.text)),
            "promise": None,
            "room_at": _text(max(rooms, default=None)),
        }
        if promise is not None:
            found["promise"] = {
                "asked": _text(promise.asked),
                "due": _text(promise.due),
                "taken": _text(promise.due + GRACE),
                "for": [
                    _waiter(each, self._rules.holdings.known[name], rows.get(each, {}), user)
                    for name in sorted(promise.to)
                    if name in self._rules.holdings.known and (each := key_of(name))
                ],
            }
        return found

    async def usage(self, user: str | None = None) -> list[dict[str, Any]]:
        """GPU-seconds by day: of one user, or of all users and groups."""
        return await self._rules.usage(user)

    async def usage_csv(self, user: str | None = None) -> str:
        """The same as a table for spreadsheets."""
        return _csv(await self.usage(user))

    async def metrics(self) -> bytes:
        """Everything in Prometheus' text format.

        Raises
        ------
        GpuShareError: the cluster cannot be read.
        """
        rules = self._rules
        gpus = [
            {
                "uuid": name,
                "model": gpu.model,
                "memory_bytes": gpu.memory_bytes,
                "held_bytes": gpu.memory_bytes - gpu.free_bytes,
                "free_bytes": gpu.free_bytes,
            }
            for name, gpu in _told_apart(await rules.sight.gpus())
        ]
        idle = rules.idle.since(rules.clock())
        shares = [
            {"state": _state(claim), "idle_seconds": 0.0 if name in idle else None}
            for name, claim in rules.holdings.known.items()
            if not claim.size.is_none
        ]
        totals = await rules.totals()
        machine = Machine(gpus, shares, None, totals, rules.waits, rules.paused)
        return await in_thread(metrics_text, machine, by_user=rules.settings.metrics_by_user)

    # -- what is done ----------------------------------------------------------------------------

    def end(self, key: Key, by: str) -> None:
        """End somebody's kernel.

        Raises
        ------
        NoKernel
        """
        if not self._kernels.end(key, "An administrator ended the kernel."):
            raise NoKernel(_none(key))
        _log.warning("%s ended kernel %s of %s", by, key.kernel_id, key.user)

    def ask_back(self, key: Key, by: str) -> None:
        """Have a kernel's server give its share back by its rule, as if somebody waited for it.

        Raises
        ------
        NoKernel
        """
        claim = self._rules.holdings.known.get(key.text)
        if claim is None or claim.held_since is None:
            raise NoKernel(f"{_none(key)[:-1]} that holds a share.")
        self._rules.orders.ask_back(key.text)
        self._rules.changed()
        _log.warning("%s asked back kernel %s of %s", by, key.kernel_id, key.user)

    async def pause(self, paused: bool, by: str) -> None:
        """Refuse new shares, or give them out again.

        Raises
        ------
        LedgerError: it cannot be kept.
        """
        await self._rules.pause(paused)
        _log.warning("%s %s new shares", by, "pauses" if paused else "gives out")


def _pieces(share: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What a share has of each GPU, as a machine's broker has it in its record."""
    if share is None:
        return []
    memory = share["memory_bytes"]
    return [{"uuid": device["uuid"], "memory_bytes": memory} for device in share["devices"]]


def _told_apart(gpus: Sequence[Capacity]) -> Iterator[tuple[str, Capacity]]:
    """GPUs with a name that no other one has: Prometheus takes each series once.

    Drivers that tell no uuid number the GPUs of each node anew.
    """
    seen = Counter(gpu.uuid for gpu in gpus)
    here: Counter[str] = Counter()
    for gpu in gpus:
        name = gpu.uuid if seen[gpu.uuid] == 1 else f"{gpu.node}/{gpu.uuid}"
        here[name] += 1
        yield (name if here[name] == 1 else f"{name}#{here[name]}"), gpu


def _none(key: Key) -> str:
    where = f"on the server {key.server}" if key.server else "on the default server"
    return f"{key.user} has no kernel {key.kernel_id} {where}."


def _state(claim: Claim) -> str:
    if claim.lent:
        return "lent"
    return "waiting" if claim.held_since is None else "held"


def _waiter(
    key: Key, claim: Claim, row: Mapping[str, Any], user: str | None
) -> dict[str, str | None]:
    """One for whom a share is asked back; of others a user hears the size alone."""
    if user is not None and key.user != user:
        return {
            "user": None,
            "server": None,
            "kernel_id": None,
            "path": None,
            "size": str(claim.size),
        }
    return {
        "user": key.user,
        "server": key.server,
        "kernel_id": key.kernel_id,
        "path": row.get("path"),
        "size": str(claim.size),
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        amounts = (f"{row[name]:.3f}" for name in COLUMNS[3:])
        writer.writerow([row["day"], row["of"], safe(row["name"]), *amounts])
    return out.getvalue()
