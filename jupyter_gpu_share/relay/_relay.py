"""The relay as its owner sees it: methods for any thread, each carried out by the relay's own."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from ..engines.base import Connection
from ..errors import EngineError, GpuShareError
from ._activity import Activity
from ._descriptors import too_many, words
from ._events import RelayEvents
from ._held import HeldLimits
from ._question import Answer
from ._rules import HoldMode
from ._service import Service, settle
from ._sockets import bind_fronts, close, unlink
from ._stand import Stand

__all__ = ["Relay"]

T = TypeVar("T")

_CLOSE_PATIENCE = 5.0

_open: weakref.WeakSet[Relay] = weakref.WeakSet()


class Relay:
    """Stable addresses for one kernel, whatever is behind them.

    All methods may be called from any thread and return at once; what takes time is a future.

    A relay is in one of four states. With *no kernel*, and while one is met, it holds what needs
    one. A kernel is *attached* while clients reach it. It is *paused* where the relay has it and
    clients do not: they still see what it sends, and what they send is passed on, answered or held
    as they would expect of a kernel that is busy. See :meth:`hold` for how much it answers itself.

    Parameters
    ----------
    key, signature_scheme: of the Jupyter session; the same on both sides.
    limits: how much is held for a kernel that is not there.
    events: told of what clients want; can be set at any time.
    language: of the kernelspec, for a kernel that never ran.
    """

    def __init__(
        self,
        *,
        key: bytes,
        signature_scheme: str = "hmac-sha256",
        limits: HeldLimits | None = None,
        events: RelayEvents | None = None,
        kernel_info: Mapping[str, Any] | None = None,
        language: str = "python",
    ) -> None:
        self.events = events or RelayEvents()
        self._key = key
        self._scheme = signature_scheme
        self._limits = limits or HeldLimits()
        self._language = language
        self._first_info = dict(kernel_info) if kernel_info else None
        self._connection: Connection | None = None
        self._service: Service | None = None

    def bind(
        self,
        *,
        transport: str = "tcp",
        ip: str = "127.0.0.1",
        ports: Mapping[str, int] | None = None,
        curve_publickey: str | None = None,
        curve_secretkey: str | None = None,
    ) -> Connection:
        """Open the public sockets and begin to hold what comes; port 0 means any.

        Takes some milliseconds.

        Raises
        ------
        EngineError: an address cannot be bound, or too many files are open. Nothing is left open.
        """
        wanted = Connection(
            transport, ip, ports or {}, self._key, self._scheme, curve_publickey, curve_secretkey
        )
        fronts, where = bind_fronts(wanted)
        try:
            stand = Stand(fronts, self._key, self._scheme, self._language)
            stand.kernel_info = self._first_info
            service = Service(fronts, where, stand, limits=self._limits, events=lambda: self.events)
            thread = threading.Thread(target=service.serve, name="gpu-share-relay", daemon=True)
            try:
                thread.start()
            except BaseException:
                service.abandon()
                raise
        except BaseException as error:
            close(fronts)
            unlink(where)
            if too_many(error):
                raise EngineError(words(error)) from error
            raise
        self._connection, self._service = where, service
        _open.add(self)
        return where

    @property
    def connection(self) -> Connection:
        """Where clients connect. The relay must be bound."""
        assert self._connection is not None
        return self._connection

    @property
    def attached(self) -> bool:
        """True while clients reach a kernel behind the relay."""
        return self._service is not None and self._service.attached

    @property
    def held(self) -> int:
        """Number of messages that wait for a kernel and asked for it: cells and widgets."""
        return self._service.wanting if self._service is not None else 0

    @property
    def activity(self) -> Activity:
        """What clients do, up to 50 ms ago."""
        return self._service.traffic.activity if self._service is not None else Activity()

    @property
    def kernel_info(self) -> Mapping[str, Any] | None:
        """Content of the last ``kernel_info_reply`` of a real kernel."""
        return self._first_info if self._service is None else self._service.stand.kernel_info

    @property
    def subshells(self) -> tuple[str, ...]:
        """Ids of the subshells that clients had the kernel's process make.

        Pages go on to use them when another process takes its place. They can be read until that
        one answers (:meth:`attach`); then there are none but those of :meth:`note_subshells`.
        """
        return self._service.traffic.subshells.ids if self._service is not None else ()

    def note_subshells(self, ids: Iterable[str]) -> Future[None]:
        """The process that is there now has these subshells too: they were made anew in it."""
        known = tuple(ids)
        return self._call(lambda service: service.traffic.subshells.add(known), lambda: None)

    def count(self) -> Future[Activity]:
        """What clients do, to the last message that passed; :attr:`activity` lags a moment."""
        return self._call(lambda service: service.count(), lambda: self.activity)

    def at_work(self) -> Future[int]:
        """Number of cells that the kernel has and has not answered; those that are held aside.

        Of a kernel that is paused it is asked, too, whether it is past cells without an answer.
        """
        return self._call(lambda service: service.at_work(), lambda: 0)

    def hold(self, mode: HoldMode, notice: str = "") -> None:
        """Say how to behave while clients do not reach a kernel, and what waiting cells show.

        ======================== =============== =============== =============== ===============
        a client's message       no kernel,      no kernel,      paused,         paused,
                                 ``STARTING``    ``WAITING``     ``STARTING``    ``WAITING``
        ======================== =============== =============== =============== ===============
        cell, comm               held            held            held            held
        comm of a page itself    held            held            passed on       passed on
        ``kernel_info``          held            answered        answered        answered
        ``comm_info``            held            empty           passed on       passed on
        ``history``              held            empty           empty           empty
        completion, inspection   empty           empty           empty           empty
        ``interrupt``            answered, told  answered, told  answered, told  answered, told
        ``shutdown``             answered, told  answered, told  passed on, told answered, told
        other on control         refused         refused         passed on       passed on
        other on shell           refused         refused         refused         refused
        ======================== =============== =============== =============== ===============

        *Told* are the :class:`RelayEvents`; *refused* is a reply with an error that says why.
        """
        self._do(lambda service: service.set_mode(mode, notice), _nothing)

    def attach(self, back: Connection, *, paused: bool = False) -> Future[Mapping[str, Any]]:
        """Put a kernel behind the relay as soon as it answers.

        The result is the content of its ``kernel_info_reply``; by then all held messages are on
        their way to it, in order, unless it stays ``paused``: then :meth:`resume` sends them.
        :meth:`detach` gives up and cancels the future. ipykernel takes the relay's own request for
        the one that threads print for: in a process that lived before, that is to be set back.

        Raises (in the future)
        ----------------------
        GpuShareError: it cannot be reached, or too many files are open. What was held still is.
        """
        future: Future[Mapping[str, Any]] = Future()
        self._do(lambda service: service.attach(back, future, paused=paused), future.cancel)
        return future

    def detach(self, gone: bool = False) -> Future[Activity]:
        """Take the kernel away; from then on messages are held.

        What the kernel sent before is passed on first, for at most a second; ``gone`` says that
        its process has ended, so that nothing more will come. The result is the activity up to
        then: cells that count as pending in it were handed to the kernel and not answered.
        """
        return self._call(lambda service: service.detach(gone=gone), lambda: self.activity)

    def pause(self) -> Future[Activity]:
        """Let clients not reach the kernel from now on, with it still there; what they did so far.

        It may be paused for hours. What it sends goes to the clients all the time. :meth:`resume`
        goes on as if nothing had been; :meth:`detach` makes it final.
        """
        return self._call(lambda service: service.pause(), lambda: self.activity)

    def resume(self, line: str = "") -> Future[None]:
        """Go on after :meth:`pause`: what was held meanwhile is handed to the kernel first.

        ``line`` is shown above what the first cell of it prints; where there is none, as
        :meth:`notify` does. Nothing where no kernel is paused.

        Raises (in the future)
        ----------------------
        GpuShareError: too many files are open. The kernel stays paused, and what was held is.
        """
        return self._call(lambda service: service.resume(line), lambda: None)

    def ask(self, code: str, buffers: Sequence[bytes] = ()) -> Future[Answer]:
        """Run code of this package in a kernel that is paused; what it answers.

        The code calls ``gpu_share_kernel.asked.answer``, which knows what can be asked for. No
        client sees anything of it; what the user's threads print meanwhile is shown under the last
        cell. Its message has ``{"gpu_share": {"last_cell": header or None}}`` in its metadata: the
        request of a client that the process had last. :meth:`detach` ends the waiting.

        Raises (in the future)
        ----------------------
        GpuShareError: the kernel is not paused, is asked already, could not do it, or was
            interrupted before it replied.
        """
        future: Future[Answer] = Future()

        def begin(service: Service) -> None:
            try:
                service.ask(code, buffers, future)
            except GpuShareError as error:
                settle(future, error=error)

        error = GpuShareError("The kernel's connection is closed.")
        self._do(begin, lambda: settle(future, error=error))
        return future

    def listen_again(self) -> Future[None]:
        """Make the files of ipc sockets again if somebody removed them. Clients stay connected."""
        return self._call(lambda service: service.listen_again(), lambda: None)

    def discard(self, ename: str, evalue: str) -> Future[int]:
        """Answer all that is held: cells with an error, requests as while ``WAITING``.

        How many cells and changes of widgets there were; those of widgets are told in the output
        of the last cell. From then on :meth:`RelayEvents.wanted` has the next epoch.
        """
        return self._call(lambda service: service.discard(ename, evalue), lambda: 0)

    def notify(self, text: str) -> None:
        """Show a line under the last cell, whether a kernel is there or not.

        Before any cell there is no place for one: it waits for the first.
        """
        self._do(lambda service: service.notify(text), _nothing)

    def close(self) -> Future[None]:
        """End the relay: addresses are free and the thread is gone. Idempotent."""
        future: Future[None] = Future()

        def end(service: Service) -> None:
            _open.discard(self)
            service.close(future)

        self._do(end, lambda: settle(future, None))
        return future

    def _call(self, work: Callable[[Service], T], closed: Callable[[], T]) -> Future[T]:
        """Have the relay's thread work; ``closed`` gives the result where there is none."""
        future: Future[T] = Future()

        def run(service: Service) -> None:
            try:
                result = work(service)
            except GpuShareError as error:
                settle(future, error=error)
            except BaseException as error:
                settle(future, error=error)
                raise
            else:
                settle(future, result)

        self._do(run, lambda: settle(future, closed()))
        return future

    def _do(self, work: Callable[[Service], None], closed: Callable[[], object]) -> None:
        """Have the relay's thread do ``work``, or do ``closed`` where the relay is not open."""
        service = self._service
        if service is None:
            closed()
        else:
            service.inbox.do(lambda: work(service), closed)


def _nothing() -> None:
    """What a closed relay does about words."""


@atexit.register
def _close_all() -> None:
    """Leave no thread in libzmq's loops when the interpreter ends."""
    for future in [relay.close() for relay in list(_open)]:
        with suppress(Exception):
            future.result(_CLOSE_PATIENCE)
