"""What the thread of a relay does: it owns the sockets, and serves both sides.

While clients reach a kernel, shell and iopub are lent to the carriers, and the thread carries what
has hardly any traffic: control and stdin. At all other times it deals with each message itself.
It answers the heartbeat always. Sockets change hands only by starting and joining threads, so each
belongs to one thread at any time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

import zmq

from ..engines.base import Connection
from ..errors import GpuShareError
from ._activity import Activity
from ._carriers import Carriers
from ._clients import Clients
from ._descriptors import too_many, words
from ._events import RelayEvents
from ._held import Held, HeldLimits
from ._inbox import Inbox
from ._kernel import VISIBLE, KernelSide
from ._own_client import OwnClient
from ._question import Answer
from ._rules import HoldMode, Kind
from ._sockets import BACKS, CHANNELS, context, rebind, unlink
from ._stand import Stand, line_of
from ._traffic import Traffic
from ._wire import Socket, parts, received, received_heads

__all__ = ["Service", "settle"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Carried by the relay's own thread while clients reach a kernel.
_OWN = ("control", "stdin")
#: Messages of one socket in a row: a sender that never is silent leaves others their turn.
_BATCH = 200
#: Seconds between two looks at what passes on shell.
_REST = 0.05
#: Milliseconds without a message after which nothing is under way from a kernel any more, and the
#: same where its process has ended.
_QUIET, _QUIET_GONE = 50, 20
#: Seconds until it is tried again to hand a kernel back to its clients.
_AGAIN = 1.0
#: What a cell is answered that the kernel never answers.
_NO_REPLY = "The cell was interrupted; the kernel does not say how much of it ran."
#: So many lines wait at most for a first cell.
_MOST_UNSAID = 20
#: Seconds that a kernel has to become quiet when it is detached.
_LAST_WORDS = 1.0

_numbers = count()


class Service:
    """The relay's thread and all that belongs to it.

    The attributes may be used by any thread, the methods below only by what :attr:`inbox` has done.

    Attributes
    ----------
    inbox: takes work for the thread.
    attached: whether clients reach a kernel.
    traffic: what is known of what passes.

    Raises
    ------
    OSError, zmq.ZMQError: no descriptor is left. Nothing but ``fronts`` is left open.
    """

    def __init__(
        self,
        fronts: dict[str, Socket],
        where: Connection,
        stand: Stand,
        *,
        limits: HeldLimits,
        events: Callable[[], RelayEvents],
    ) -> None:
        self.attached = False
        self.stand = stand
        self.traffic = Traffic(stand, events)
        self._clients = Clients(
            stand,
            self.traffic,
            limits,
            live=lambda: self._live is not None,
            pass_on=self._to_kernel,
            say=self.notify,
        )
        self._fronts = fronts
        self._where = where
        self._ending = False
        self._kernel: KernelSide | None = None
        self._carriers: Carriers | None = None
        self._attaching: Future[Mapping[str, Any]] | None = None
        self._stay_paused = False
        self._hand_back_at: float | None = None
        self._rest_until = 0.0
        self._unsaid: list[str] = []  # as there was no cell yet to show them under
        self._poller = self._resting = zmq.Poller()
        self.inbox = Inbox()
        try:
            self._notices = context().socket(zmq.PUB)
        except BaseException:
            self.inbox.close()
            raise
        self._notices.linger = 0
        self._notices_address = f"inproc://relay-notices-{next(_numbers)}"
        self._notices.bind(self._notices_address)
        self._own = OwnClient(fronts["shell"], stand.session)
        self._listen()

    # -- for any thread ----------------------------------------------------------------------

    @property
    def wanting(self) -> int:
        """Number of messages that are held and ask for the kernel itself."""
        return self._clients.held.wanting

    def serve(self) -> None:
        """Work until the relay is closed; the body of its thread."""
        while not self._ending:
            try:
                self._turn()
            except zmq.ContextTerminated:
                return
            except Exception:
                _log.exception("The relay met an error and goes on")

    # -- one turn ----------------------------------------------------------------------------

    def _turn(self) -> None:
        # What passes on shell is counted now and then, not message by message: each look takes
        # Python's lock from those who send and receive.
        resting = self._carriers is not None and time.monotonic() < self._rest_until
        poller = self._resting if resting else self._poller
        ready = dict(poller.poll(self._patience(resting=resting)))
        if self.inbox.fileno() in ready:
            self.inbox.work_off()
            return  # sockets may have changed hands
        if self._fronts["hb"] in ready:
            for frames in received(self._fronts["hb"], _BATCH):
                self._send("hb", frames)
        if self._kernel is not None and self._carriers is not None:
            self._carry(self._kernel, self._carriers, ready)
        else:
            self._answer_clients(ready)
            if self._kernel is not None:
                self._hear_kernel(self._kernel, ready)
        self._tick()
        self.traffic.tell()

    def _patience(self, *, resting: bool) -> int | None:
        """Milliseconds until there is something to do, whatever comes; None: never."""
        dues = [self._clients.due, self._rest_until if resting else None, self._hand_back_at]
        if self._kernel is not None and self._carriers is None:
            dues.append(self._kernel.due)
        if self._kernel is not None and self._carriers is not None:
            dues.append(self._ask_at(self._kernel))
        known = [due for due in dues if due is not None]
        return max(0, int((min(known) - time.monotonic()) * 1000) + 1) if known else None

    def _tick(self) -> None:
        self._clients.tick()
        if self._carriers is not None and self._unsaid and self.traffic.last_cell:
            lines, self._unsaid = self._unsaid, []
            for text in lines:
                self.notify(text)
        if self._kernel is None:
            return
        if self._carriers is not None:
            self._ask_whether_over(self._kernel)
            return
        if _is_due(self._hand_back_at):
            self._hand_back(self._kernel)
            return
        try:
            self._kernel.tick()
        except OSError as error:
            self._attach_failed(error)

    def _listen(self) -> None:
        """Choose what to wait for; to be called whenever sockets change hands."""
        self.attached = self._carriers is not None
        kernel = self._kernel.sockets if self._kernel is not None else {}
        if self._carriers is not None:
            own = [self._fronts[name] for name in (*_OWN, "hb")]
            own += [kernel[name] for name in _OWN]
        else:
            own = [*self._fronts.values(), *kernel.values()]
        self._poller, self._resting = zmq.Poller(), zmq.Poller()
        for poller in (self._poller, self._resting):
            poller.register(self.inbox.fileno(), zmq.POLLIN)
            for socket in own:
                poller.register(socket, zmq.POLLIN)
            if self._own.socket is not None:
                poller.register(self._own.socket, zmq.POLLIN)
        if self._carriers is not None:
            self._poller.register(self._carriers.capture, zmq.POLLIN)
        self._rest_until = 0.0

    # -- while clients reach a kernel --------------------------------------------------------

    def _carry(self, kernel: KernelSide, carriers: Carriers, ready: Mapping[Any, int]) -> None:
        for name in _OWN:
            if self._fronts[name] in ready:
                for frames in received(self._fronts[name], _BATCH):
                    self._to_kernel(name, frames)
            if kernel.sockets[name] in ready:
                for frames in received(kernel.sockets[name], _BATCH):
                    self._from_kernel(kernel, name, frames)
        if carriers.capture in ready:
            self._count_captured()
            self._rest_until = time.monotonic() + _REST
        if self._own.socket is not None and self._own.socket in ready:
            self._take_answer(kernel, self._own.socket.recv_multipart())

    def _to_kernel(self, name: str, frames: list[bytes]) -> None:
        """Hand on what a client sent."""
        assert self._kernel is not None
        self._kernel.send(name, frames)
        if name != "stdin":
            self.traffic.passed(frames, name)

    def _from_kernel(self, kernel: KernelSide, name: str, frames: list[bytes]) -> None:
        """Hand on what a kernel sent, unless it is the relay's own."""
        if kernel.is_own(frames):
            if kernel.note(frames) not in VISIBLE:
                if name == "shell":
                    self._refuse(self.traffic.unanswered.over(parts(frames)[1]))
                return
            frames = self.stand.attribute(frames, self.traffic.handed or {})
        if name in ("control", "shell"):
            self.traffic.passed(frames)  # whoever has its answer may ask us next
        self._send(name, frames)

    def _send(self, name: str, frames: list[bytes]) -> None:
        with suppress(zmq.ZMQError):  # the client is gone
            self._fronts[name].send_multipart(frames, zmq.NOBLOCK)

    def _count_captured(self) -> None:
        if self._carriers is not None:
            for frames in received_heads(self._carriers.capture):
                self.traffic.passed(frames)

    def _ask_at(self, kernel: KernelSide) -> float | None:
        """When to ask whether cells are over; None where none is open, or none may be taken so.

        Of ipykernel it is known that it works in order and leaves cells without a reply. Other
        kernels may run cells side by side.
        """
        if kernel.info.get("implementation") != "ipython":
            return None
        return self.traffic.unanswered.due

    def _ask_whether_over(self, kernel: KernelSide) -> None:
        if not _is_due(self._ask_at(kernel)):
            return
        self._count_captured()  # what was answered meanwhile is not to be asked about
        if not _is_due(self._ask_at(kernel)):
            return
        # Threads go on to print under the last cell, not under this request.
        asked = {"gpu_share": {"last_cell": self.traffic.handed}}
        self.traffic.unanswered.asked(self._own.ask("kernel_info_request", asked))
        self._listen()

    def _take_answer(self, kernel: KernelSide, frames: list[bytes]) -> None:
        """The kernel is past some cells: it will never answer those of them that are open."""
        self._count_captured()  # replies that came before this one
        cells = self.traffic.unanswered.over(parts(frames)[1])
        if cells:
            self._stop_carrying()
            self._refuse(cells)
            self._hand_back(kernel)
        elif not self.traffic.unanswered.under_way:
            self._own.close()
            self._listen()

    def _refuse(self, cells: Sequence[Held]) -> None:
        """Answer cells in the place of a kernel that is past them."""
        if cells:
            _log.info("A kernel sent no reply of %d cells that were interrupted", len(cells))
        for cell in cells:
            # Of one that was carried the content has not been read yet: hardly any needs it.
            cell.silent = bool(parts(cell.frames)[2].get("silent"))
            self.stand.refuse(cell, "KeyboardInterrupt", _NO_REPLY)
            self.traffic.refused(cell.header)

    def _hand_back(self, kernel: KernelSide) -> None:
        """Let clients reach the kernel again, as soon as there are descriptors for that."""
        try:
            self._hand_over(kernel)
        except GpuShareError as error:
            if self._hand_back_at is None:
                self.notify(f"{error} Cells wait until then.")
            self._hand_back_at = time.monotonic() + _AGAIN
            self._listen()

    # -- while they do not -------------------------------------------------------------------

    @property
    def _live(self) -> KernelSide | None:
        """The kernel that is connected and paused; None where there is none."""
        paused = self._kernel is not None and self._kernel.answers and self._carriers is None
        return self._kernel if paused else None

    def _answer_clients(self, ready: Mapping[Any, int]) -> None:
        for name in CHANNELS:
            if name == "hb" or self._fronts[name] not in ready:
                continue
            for frames in received(self._fronts[name], _BATCH):
                if name == "iopub":
                    if frames[0][:1] == b"\x01":
                        self.stand.welcome(frames[0][1:])
                elif name == "stdin":
                    if self._live is not None:
                        self._to_kernel(name, frames)
                elif (message := self.stand.read(name, frames)) is not None:
                    self._clients.take(message)

    def _hear_kernel(self, kernel: KernelSide, ready: Mapping[Any, int]) -> None:
        if self._attaching is not None and self._attaching.cancelled():
            self._drop_kernel()
            return
        self._pass_on(kernel, ready)
        if self._attaching is not None and kernel.answers:
            self._finish_attach(kernel, self._attaching)

    def _pass_on(self, kernel: KernelSide, ready: Mapping[Any, int]) -> None:
        for name in BACKS:
            if kernel.sockets[name] in ready:
                for frames in received(kernel.sockets[name], _BATCH):
                    self._from_kernel(kernel, name, frames)

    def set_mode(self, mode: HoldMode, notice: str) -> None:
        """See :meth:`Relay.hold`."""
        self._clients.set_mode(mode, notice, reached=self._carriers is not None)

    def discard(self, ename: str, evalue: str) -> int:
        """See :meth:`Relay.discard`."""
        number = self._clients.discard(ename, evalue)
        self.traffic.tell()
        return number

    def listen_again(self) -> None:
        """See :meth:`Relay.listen_again`."""
        if self._carriers is None and rebind(self._fronts, self._where):
            self._listen()

    # -- a kernel comes ----------------------------------------------------------------------

    def attach(self, where: Connection, future: Future[Mapping[str, Any]], *, paused: bool) -> None:
        """See :meth:`Relay.attach`."""
        self.detach(gone=False)
        self._attaching, self._stay_paused = future, paused
        try:
            self._kernel = KernelSide(where, self.stand.session, self._notices_address)
        except (zmq.ZMQError, OSError) as error:
            self._attach_failed(error)
        else:
            self._listen()

    def _attach_failed(self, error: Exception) -> None:
        """Hold again what clients send, and say why."""
        future = self._attaching
        self._drop_kernel()
        if future is not None:
            reason = f"The kernel cannot be reached: {getattr(error, 'strerror', None) or error}."
            told = GpuShareError(words(error) if too_many(error) else reason)
            told.__cause__ = error
            settle(future, error=told)

    def _finish_attach(self, kernel: KernelSide, future: Future[Mapping[str, Any]]) -> None:
        if not future.set_running_or_notify_cancel():
            self._drop_kernel()
            return
        self._attaching = None
        self.stand.kernel_info = kernel.info
        self.traffic.new_process()
        try:
            if self._stay_paused:
                self._clients.reconsider()
            else:
                self._hand_over(kernel)
        except BaseException as error:
            self._drop_kernel()
            future.set_exception(error)
            if not isinstance(error, GpuShareError):
                raise
        else:
            future.set_result(kernel.info)

    def _hand_over(self, kernel: KernelSide, line: str = "") -> None:
        """Let clients reach the kernel; what was held goes first, in order.

        Raises
        ------
        GpuShareError: no descriptor or thread is left. Everything is held as before.
        """
        try:
            carriers = Carriers(self._fronts, kernel.sockets)
        except (zmq.ZMQError, OSError, RuntimeError) as error:
            if too_many(error):
                raise GpuShareError(words(error)) from error
            raise
        cells = [message for message in self._clients.held if message.kind is Kind.CELL]
        lines = [*self._unsaid, *([line] if line else [])]
        parent = cells[0].header if cells else self.traffic.last_cell
        try:
            for message in cells:
                self.stand.hide_notice(message)
            for text in lines if parent else ():
                self.stand.say(text, parent)
            kernel.subscribe()
        except BaseException:
            carriers.abandon()
            raise
        self._unsaid = [] if parent else lines
        waiting = self._clients.held.take()
        for channel in ("control", "shell"):
            for message in waiting:
                if message.channel == channel:
                    kernel.send(channel, message.frames)
        for message in cells:
            self.traffic.handed_over(message)
        carriers.let_go()
        self._carriers = carriers
        self._hand_back_at = None
        self._listen()

    # -- is paused, and goes -----------------------------------------------------------------

    def count(self) -> Activity:
        """See :meth:`Relay.count`."""
        self._count_captured()
        self.traffic.tell()
        return self.traffic.activity

    def at_work(self) -> int:
        """See :meth:`Relay.at_work`."""
        kernel = self._live
        if kernel is not None and _is_due(self._ask_at(kernel)):
            asked = kernel.ask_whether_over(self.traffic.handed)
            self.traffic.unanswered.asked(asked)
        held = sum(message.kind is Kind.CELL for message in self._clients.held)
        return self.count().pending_cells - held

    def pause(self) -> Activity:
        """See :meth:`Relay.pause`."""
        self._hand_back_at = None
        if self._carriers is not None:
            self._stop_carrying()
            self._listen()
        self.traffic.tell()
        return self.traffic.activity

    def _stop_carrying(self) -> None:
        assert self._carriers is not None
        self._carriers.stop()
        self._count_captured()
        self._carriers.close()
        self._carriers = None
        self.traffic.unanswered.forget()
        self._own.close()

    def resume(self, line: str) -> None:
        """See :meth:`Relay.resume`."""
        kernel = self._live
        if kernel is not None and self._attaching is None:
            kernel.give_up("Nobody waits for the answer any more.")
            self._hand_over(kernel, line)

    def ask(self, code: str, buffers: Sequence[bytes], future: Future[Answer]) -> None:
        """See :meth:`Relay.ask`.

        Raises
        ------
        GpuShareError: no kernel is paused, or it cannot be asked now.
        """
        kernel = self._live
        if kernel is None or self._attaching is not None:
            raise GpuShareError("The kernel cannot be asked now.")
        kernel.ask(code, buffers, future, self.traffic.handed)

    def detach(self, *, gone: bool) -> Activity:
        """See :meth:`Relay.detach`."""
        if self._attaching is not None:
            self._attaching.cancel()
            self._drop_kernel()
        last = self.pause()
        if self._kernel is None:
            return last
        self._hear_last_words(self._kernel, gone=gone)
        self.traffic.tell()
        last = self.traffic.activity
        self._drop_kernel()
        self._clients.answer_instead(list(self.traffic.questions.values()))
        self.traffic.kernel_gone({str(held.header.get("msg_id")) for held in self._clients.held})
        self.traffic.tell()
        return last

    def _hear_last_words(self, kernel: KernelSide, *, gone: bool) -> None:
        """What a kernel sent last may still be under way. One that lives may never be silent."""
        poller = zmq.Poller()
        for socket in kernel.sockets.values():
            poller.register(socket, zmq.POLLIN)
        end = time.monotonic() + _LAST_WORDS
        while time.monotonic() < end:
            ready = dict(poller.poll(_QUIET_GONE if gone else _QUIET))
            if not ready:
                return
            self._pass_on(kernel, ready)

    def _drop_kernel(self) -> None:
        kernel, self._kernel = self._kernel, None
        self._attaching = None
        if kernel is not None:
            kernel.close()
        self._listen()

    def notify(self, text: str) -> None:
        """See :meth:`Relay.notify`."""
        # A cell that is held has not to do with what the kernel does.
        parent = self.traffic.handed or self.traffic.last_cell
        if not parent:
            self._unsaid = [*self._unsaid[1 - _MOST_UNSAID :], text]
            return
        if self._carriers is None:
            self.stand.say(text, parent)
            return
        # To ask for events is to have subscriptions that have just come taken into account.
        self._notices.getsockopt(zmq.EVENTS)
        topic = b"stream.stderr"
        self.stand.session.send(self._notices, "stream", line_of(text), parent=parent, ident=topic)

    # -- the end -----------------------------------------------------------------------------

    def abandon(self) -> None:
        """Close what the thread would own where it could not be started."""
        self._notices.close(linger=0)
        self.inbox.close()

    def close(self, future: Future[None]) -> None:
        """See :meth:`Relay.close`."""
        self.inbox.refuse()
        self._ending = True
        try:
            self.detach(gone=False)
            self.discard("KernelShutdown", "The kernel was shut down.")
        finally:
            for front in self._fronts.values():
                front.close(linger=1000)
            self._notices.close(linger=0)
            unlink(self._where)
            self.inbox.close()
            settle(future, None)


def _is_due(at: float | None) -> bool:
    return at is not None and time.monotonic() >= at


def settle(future: Future[T], result: T | None = None, error: BaseException | None = None) -> None:
    """Finish a future that somebody may have cancelled meanwhile."""
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)  # type: ignore[arg-type]
