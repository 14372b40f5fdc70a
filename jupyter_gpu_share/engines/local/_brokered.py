"""Shares of a machine whose broker keeps them: what the ledger is to a user's own servers.

A broker can be away for a while. What runs needs nothing of it meanwhile. What is asked of it by
who starts is asked again until it answers, and what it has to be told is told then.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic
from typing import Any

from ...broker.client import (
    FITS,
    BrokerAway,
    BrokerClient,
    BrokerRefused,
    EventStream,
    fits_of,
)
from ...errors import EngineError, LedgerError
from ...sentences import words_of
from ...size import Size
from .._places import here
from .._processes import Holder
from ..idle_shares import AskedBack, IdleShare, ToldOfIdle, answered
from ..user_limits import UserLimit, limits_from_json
from ._contents import Claim, Holding, LedgerSnapshot
from ._gpu import Gpu
from ._ledger import claim_is_gone
from ._wire import claim_from_json, holding_from_json, idle_to_json, snapshot_from_json

__all__ = ["BrokeredLedger"]

_log = logging.getLogger(__name__)

#: Seconds between two tries to reach a broker that is away.
_TRY_INTERVAL = 1.0
_NO_SUCH = 404


@dataclass
class _Asked:
    """A claim as it was asked for, and as it stood when this last heard of it."""

    body: dict[str, Any]
    claim: Claim
    sent: bool = False


class BrokeredLedger:
    """The shares of one server's kernels, kept by the broker. For one thread, like a ledger.

    Parameters
    ----------
    path: of the broker's socket.
    """

    def __init__(self, path: Path) -> None:
        self._client = BrokerClient(path)
        self._seen: frozenset[str] = frozenset()
        #: Claims of this process, by kernel id.
        self._asked: dict[str, _Asked] = {}
        #: What the broker was not told yet, by kernel id.
        self._owed: dict[str, dict[str, Any]] = {}
        #: Kernels of which it was told that their share is gone.
        self._lost: set[str] = set()
        self._try_at = 0.0
        self._listener: _Listener | None = None
        self._idle = ToldOfIdle()
        self._limits: Sequence[UserLimit] = ()

    @property
    def counts_others(self) -> bool:
        """The broker sees for itself what is used without a share."""
        return False

    def close(self) -> None:
        """Let go of the broker. What is held stays held while this process and its kernels live."""
        if self._listener is not None:
            self._listener.close()
        self._client.close()

    # -- the GPUs ------------------------------------------------------------------------------

    def set_gpus(self, gpus: Sequence[Gpu]) -> None:
        """Say which GPUs this server sees: its kernels get no others."""
        self._seen = frozenset(gpu.uuid for gpu in gpus)

    def set_others(self, others: Mapping[str, int]) -> None:
        """The broker sees for itself what is used without a share."""

    def holdings(self) -> dict[str, Holding]:
        """What is taken of each GPU, by uuid."""
        told = self._client.ask("GET", "/v1/machine")
        # A broker of an earlier version tells none.
        self._limits = limits_from_json(told["you"].get("limits"))
        return {str(row["uuid"]): holding_from_json(row) for row in told["gpus"]}

    def user_limits(self) -> Sequence[UserLimit]:
        """The user's limits, as they were told with :meth:`holdings`."""
        return self._limits

    # -- claims --------------------------------------------------------------------------------

    def claim(
        self,
        kernel_id: str,
        size: Size,
        holder: Holder,
        info: Mapping[str, Any],
        *,
        token: str = "",
        only: Collection[str] = (),
    ) -> Claim:
        """Ask for a share. While the broker is away the claim waits, and says so.

        The holder is the process that asks, as the broker sees for itself.

        Raises
        ------
        BrokerRefused: a rule of the administrator does not allow it.
        """
        self._hear()
        wanted = sorted(set(only) & self._seen or only or self._seen)
        body = {"size": str(size), "info": _told(info), "only": wanted}
        if token:
            body["token"] = token
        waiting = Claim(token, kernel_id, size, holder, here(), position=1, of=1, info=dict(info))
        asked = self._asked[kernel_id] = _Asked(body, waiting)
        self._owed.pop(kernel_id, None)
        self._lost.discard(kernel_id)
        try:
            self._send(kernel_id, asked)
        except BrokerAway as error:
            asked.claim = replace(waiting, reason=words_of(error))
        except BaseException:
            self._asked.pop(kernel_id, None)
            raise
        return asked.claim

    def _send(self, kernel_id: str, asked: _Asked) -> None:
        asked.claim = claim_from_json(self._client.ask("PUT", _path(kernel_id), asked.body))
        # Asked for again after an answer was lost, it has to be the same claim.
        asked.body["token"] = asked.claim.token
        asked.sent = True

    def turns(self, kernel_ids: Collection[str]) -> dict[str, Claim]:
        """Where these kernels stand now. One whose claim is gone is left out."""
        for kernel_id in kernel_ids:
            asked = self._asked.get(kernel_id)
            if asked is None or asked.sent:
                continue
            try:
                self._send(kernel_id, asked)
            except (BrokerAway, BrokerRefused) as error:
                asked.claim = replace(asked.claim, reason=words_of(error))
        try:
            rows = {claim.kernel_id: claim for claim in self.claims()}
        except BrokerAway as error:
            away = words_of(error)
            for kernel_id in kernel_ids:
                if asked := self._asked.get(kernel_id):
                    asked.claim = replace(asked.claim, reason=away)
            return {each: self._asked[each].claim for each in kernel_ids if each in self._asked}
        found = {}
        for kernel_id in kernel_ids:
            asked = self._asked.get(kernel_id)
            if asked is not None and not asked.sent:
                found[kernel_id] = asked.claim
            elif kernel_id in rows:
                found[kernel_id] = rows[kernel_id]
                if asked is not None:
                    asked.claim = rows[kernel_id]
        return found

    def fits_each(self, kernel_id: str | None, sizes: Sequence[Size]) -> list[str | None]:
        """For each size None where it could be held at once, else why not."""
        body = {"kernel_id": kernel_id, "sizes": [str(size) for size in sizes]}
        return fits_of(self._client.ask("POST", FITS, body), len(sizes))

    def change(
        self,
        kernel_id: str,
        size: Size,
        info: Mapping[str, Any] | None = None,
        *,
        dry: bool = False,
    ) -> Claim | None:
        """Hold another size on the same GPUs; None where they have no room."""
        body: dict[str, Any] = {"size": str(size), "dry_run": dry}
        if info is not None:
            body["info"] = _told(info)
        try:
            row = self._client.ask("POST", f"{_path(kernel_id)}/change", body)
        except BrokerRefused as error:
            if error.status == _NO_SUCH:
                raise claim_is_gone() from error
            raise
        if row is None:
            return None
        claim = claim_from_json(row)
        asked = self._asked.get(kernel_id)
        if asked is not None and not dry:
            asked.claim, asked.body["size"] = claim, str(size)
        return claim

    def record_kernel(self, kernel_id: str, process: Holder) -> None:
        """Note the process that uses the share; later, where the broker is away."""
        self._note(kernel_id, {"kernel_pid": process.pid})

    def set_info(self, kernel_id: str, info: Mapping[str, Any]) -> None:
        """Change what is shown of the kernel; later, where the broker is away."""
        self._note(kernel_id, {"info": _told(info)})

    def _note(self, kernel_id: str, news: dict[str, Any]) -> None:
        owed = {**self._owed.pop(kernel_id, {}), **news}
        try:
            self._client.ask("PATCH", _path(kernel_id), owed)
        except BrokerAway:
            self._owed[kernel_id] = owed
        except BrokerRefused as error:
            if error.status == _NO_SUCH:
                raise claim_is_gone() from error
            raise

    def release(self, kernel_id: str) -> bool:
        """Give a share back, or leave the queue. False where there was neither.

        Raises
        ------
        BrokerAway: ask again.
        """
        return self._release(kernel_id, _path(kernel_id))

    def give_back(self, kernel_id: str) -> bool:
        """Release the share of a kernel that lives on without it, which the broker counts.

        Raises
        ------
        BrokerAway: ask again.
        """
        return self._release(kernel_id, f"{_path(kernel_id)}?lives_on=true")

    def _release(self, kernel_id: str, path: str) -> bool:
        self._asked.pop(kernel_id, None)
        self._owed.pop(kernel_id, None)
        return bool(self._client.ask("DELETE", path)["released"])

    def claims(self) -> list[Claim]:
        """The claims of this user, in the order of arrival."""
        return [claim_from_json(row) for row in self._client.ask("GET", "/v1/shares")]

    def living(self) -> list[Claim]:
        """The same: the broker frees what the dead held."""
        return self.claims()

    def snapshot(self) -> LedgerSnapshot | None:
        """What is held and who waits, others' kernels without their names."""
        return snapshot_from_json(self._client.ask("GET", "/v1/queue"))

    def wanted(self, idle: Mapping[str, IdleShare]) -> Mapping[str, AskedBack]:
        """Which of these idle kernels' shares the broker asks back, for others who wait.

        It is told where there is something else to say than before, while somebody waits, and now
        and then: many servers have idle kernels, and most of the time nobody waits. While it is
        away what it has asked for stands, as it does for the broker.
        """
        told, idle = self._idle, self._with_sizes(idle)
        if not self._hear().wanted() and told.suffices(idle, monotonic()):
            return told.wanted
        now = datetime.now(timezone.utc)
        rows = {kernel_id: idle_to_json(share, now) for kernel_id, share in idle.items()}
        try:
            answer = self._client.ask("PUT", "/v1/idle", {"kernels": rows})
        except BrokerAway:
            # What was heard of those who wait counts still.
            self._idle = replace(told, waiting=True)
            return told.still_wanted(idle)
        self._idle = answered(answer, idle, monotonic(), now)
        return self._idle.wanted

    def _with_sizes(self, idle: Mapping[str, IdleShare]) -> dict[str, IdleShare]:
        """Each with the size that is held of all that this process knows: the broker may hold it
        to be another. (Only here nothing can change in between.)"""
        sizes = {key: each.claim.size for key, each in self._asked.items() if each.claim.held}
        return {key: replace(share, size=sizes.get(key)) for key, share in idle.items()}

    def has_dead(self) -> bool:
        """The broker sees the ends of processes."""
        return False

    def follow(self) -> None:
        """Tell the broker what it was not told while it was away, and see that it knows all."""
        for kernel_id in list(self._owed):
            try:
                self._note(kernel_id, {})
            except LedgerError as error:
                if isinstance(error, BrokerAway):
                    return
            except EngineError as error:
                _log.warning("The broker could not be told of kernel %s: %s", kernel_id, error)
        if self._listener is not None and self._listener.began_anew():
            try:
                self._check()
            except BrokerAway:
                self._listener.note_reset()

    def _check(self) -> None:
        """Name the kernels that run on a share which the broker does not know any more.

        It alone says who holds what: nothing that this process says makes it hold a share again.
        """
        held = {key: each.claim for key, each in self._asked.items() if each.claim.held}
        known = {claim.kernel_id for claim in self.claims() if claim.held}
        for kernel_id in held.keys() - known - self._lost:
            self._lost.add(kernel_id)
            _log.error(
                "The broker of this machine knows of no share of kernel %s any more, and may give "
                "its GPU to others: restart that kernel",
                kernel_id,
            )

    def changed(self) -> bool:
        """Whether there may be news for who waits since this was last asked. Cheap."""
        news = self._hear().news()
        if any(not asked.sent for asked in self._asked.values()) and monotonic() >= self._try_at:
            self._try_at = monotonic() + _TRY_INTERVAL
            news = True
        return news

    def _hear(self) -> _Listener:
        if self._listener is None or not self._listener.alive:
            self._listener = _Listener(self._client.path)
        return self._listener


class _Listener:
    """Hears the broker's events in a thread of its own, and notes that there are any."""

    def __init__(self, path: Path) -> None:
        self._client = BrokerClient(path)
        self._news = threading.Event()
        self._wanted = threading.Event()
        self._reset = threading.Event()
        self._over = threading.Event()
        self._stream: EventStream | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="gpu-share-broker", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False in a child of the process that made it."""
        return self._thread.is_alive()

    def news(self) -> bool:
        """Whether something was heard, or may have been missed, since this was last asked."""
        return _taken(self._news)

    def wanted(self) -> bool:
        """Whether somebody may have begun to wait since this was last asked."""
        return _taken(self._wanted)

    def began_anew(self) -> bool:
        """Whether the stream began anew since this was last asked, as after a broker's restart."""
        return _taken(self._reset)

    def note_reset(self) -> None:
        """Have :meth:`began_anew` say so once more."""
        self._reset.set()

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        with self._lock:
            if self._stream is not None:
                self._stream.stop()
        self._thread.join(_TRY_INTERVAL)

    def _run(self) -> None:
        last = ""
        while not self._over.is_set():
            with suppress(EngineError, ValueError):
                stream = self._client.events(last)
                with self._lock:
                    self._stream = stream
                    if self._over.is_set():
                        stream.stop()
                try:
                    for number, kind, _ in stream:
                        last = number
                        if kind == "reset":
                            self._reset.set()
                        if kind in ("reset", "wanted"):
                            self._wanted.set()
                        self._news.set()
                finally:
                    with self._lock:
                        self._stream = None
                    stream.close()
            self._news.set()
            self._over.wait(_TRY_INTERVAL)


def _taken(event: threading.Event) -> bool:
    heard = event.is_set()
    event.clear()
    return heard


def _path(kernel_id: str) -> str:
    return f"/v1/shares/{kernel_id}"


def _told(info: Mapping[str, Any]) -> dict[str, Any]:
    """What the broker takes of it: who the user is, it sees for itself."""
    return {name: value for name, value in info.items() if name != "user"}
