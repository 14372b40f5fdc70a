"""The relay itself: one thread that owns a kernel's public sockets.

While no kernel is there the thread serves the sockets itself. While one is, it lends them to the
carriers and reads only what they capture. Sockets change hands only by starting and joining
threads, so each belongs to one thread at any time.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

import zmq

from ..engines.base import Connection
from ..errors import GpuShareError
from ._activity import Activity, ActivityCounter
from ._handshake import OWN_IDENT, Handshake
from ._held import Held, HeldLimits, HoldMode, Stand, line_of
from ._question import Answer, Question, asking
from ._sockets import (
    CAPTURED,
    CHANNELS,
    DELIMITER,
    Carriers,
    Socket,
    bind_fronts,
    close,
    connect_backs,
    context,
    inproc_pair,
    parts,
    rebind,
    received,
    received_heads,
    unlink,
)

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Milliseconds without a message after which nothing is under way from a kernel any more, and the
#: same once its end of the connection is known to be closed.
_QUIET, _QUIET_GONE = 50, 10
#: Milliseconds between two looks at what passes.
_REST = 50
_CLOSE_PATIENCE = 5.0

_open: weakref.WeakSet[Relay] = weakref.WeakSet()


class RelayEvents:
    """What a relay tells its owner. Called on the relay's thread; must not block."""

    def wanted(self) -> None:
        """A message asks for a kernel while the relay is ``WAITING``."""

    def interrupted(self) -> None:
        """A client interrupts while the relay is ``WAITING``."""

    def shutdown(self, restart: bool) -> None:
        """A client asks the kernel to end while the relay is ``WAITING``."""

    def activity(self, activity: Activity) -> None:
        """A cell was sent or is done."""


class Relay:
    """Stable addresses for one kernel, whatever is behind them.

    All methods may be called from any thread and return at once; what takes time is a future.

    Parameters
    ----------
    key, signature_scheme: of the Jupyter session; the same on both sides.
    limits: how much is held for a kernel that is not there.
    events: told of what clients want; can be set until :meth:`bind`.
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
        self._thread: threading.Thread | None = None
        self._commands: SimpleQueue[tuple[Callable[[], None], Callable[[], object]]]
        self._commands = SimpleQueue()
        self._bell_lock = threading.Lock()
        self._closed = False

        # The rest belongs to the relay's thread.
        self._fronts: dict[str, Socket] = {}
        self._backs: dict[str, Socket] = {}
        self._carriers: Carriers | None = None
        self._monitor: Socket | None = None
        self._held: list[Held] = []
        self._held_bytes = 0
        self._mode = HoldMode.STARTING
        self._notice = ""
        self._counter = ActivityCounter()
        self._activity = Activity()
        self._last_cell: dict[str, Any] = {}
        self._attaching: Future[Mapping[str, Any]] | None = None
        self._handshake = Handshake()
        self._stay_paused = False
        self._question: Question | None = None
        self._ending = False
        self._resting = False
        self._poller = zmq.Poller()
        self._bell_poller = zmq.Poller()

    # -- for any thread ----------------------------------------------------------------------

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
        EngineError: an address cannot be bound.
        """
        wanted = Connection(
            transport, ip, ports or {}, self._key, self._scheme, curve_publickey, curve_secretkey
        )
        self._fronts, self._connection = bind_fronts(wanted)
        self._stand = Stand(self._fronts, self._key, self._scheme, self._language)
        self._stand.kernel_info = self._first_info
        self._bell, self._bell_end = inproc_pair()
        self._notices = context().socket(zmq.PUB)
        self._notices.linger = 0
        self._notices_address = f"inproc://relay-notices-{id(self)}"
        self._notices.bind(self._notices_address)
        self._listen()
        self._thread = threading.Thread(target=self._serve, name="gpu-share-relay", daemon=True)
        _open.add(self)
        self._thread.start()
        return self._connection

    @property
    def connection(self) -> Connection:
        """Where clients connect. The relay must be bound."""
        assert self._connection is not None
        return self._connection

    @property
    def attached(self) -> bool:
        """True while a kernel is behind the relay."""
        return self._carriers is not None

    @property
    def held(self) -> int:
        """Number of messages that wait for a kernel and asked for it."""
        return sum(held.wants for held in list(self._held))

    @property
    def activity(self) -> Activity:
        """What clients do."""
        return self._activity

    def count(self) -> Future[Activity]:
        """What clients do, to the last message that passed; :attr:`activity` lags a moment."""
        return self._call(self._count_now, lambda: self._activity)

    @property
    def kernel_info(self) -> Mapping[str, Any] | None:
        """Content of the last ``kernel_info_reply`` of a real kernel."""
        return self._stand.kernel_info if self._thread else self._first_info

    def hold(self, mode: HoldMode, notice: str = "") -> None:
        """Say how to behave while no kernel is there, and what to show under waiting cells."""
        self._do(lambda: self._set_mode(mode, notice), _nothing)

    def attach(self, back: Connection, *, paused: bool = False) -> Future[Mapping[str, Any]]:
        """Put a kernel behind the relay as soon as it answers.

        The result is the content of its ``kernel_info_reply``; by then all held messages are on
        their way to it, in order, unless it stays ``paused``: then :meth:`resume` sends them.
        :meth:`detach` gives up and cancels the future.
        """
        future: Future[Mapping[str, Any]] = Future()
        self._do(lambda: self._begin_attach(back, future, paused=paused), future.cancel)
        return future

    def detach(self) -> Future[Activity]:
        """Take the kernel away; from then on messages are held.

        What the kernel sent before is passed on first. The result is the activity up to then:
        cells that count as pending in it were handed to the kernel and not answered.
        """
        return self._call(self._detach, lambda: self._activity)

    def pause(self) -> Future[Activity]:
        """Hold what clients send from now on, with the kernel still there; what they did so far.

        :meth:`resume` goes on as if nothing had been; :meth:`detach` makes it final.
        """
        return self._call(self._pause, lambda: self._activity)

    def resume(self, line: str = "") -> Future[None]:
        """Go on after :meth:`pause`: what was held meanwhile is handed to the kernel first.

        ``line`` is shown above what the first cell of it prints.
        """
        return self._call(lambda: self._resume(line), lambda: None)

    def ask(self, code: str, buffers: Sequence[bytes] = ()) -> Future[Answer]:
        """Run code of this package in a kernel that is paused; what it answers.

        The code calls ``gpu_share_kernel.asked.answer``, which knows what can be asked for. No
        client sees anything of it. :meth:`detach` ends the waiting with an error.

        Raises (in the future)
        ----------------------
        GpuShareError: the kernel is not paused, is asked already, or could not do it.
        """
        future: Future[Answer] = Future()
        error = GpuShareError("The kernel's connection is closed.")
        self._do(
            lambda: self._begin_ask(code, buffers, future), lambda: _settle(future, error=error)
        )
        return future

    def listen_again(self) -> Future[None]:
        """Make the files of ipc sockets again if somebody removed them. Clients stay connected."""
        return self._call(self._listen_again, lambda: None)

    def discard(self, ename: str, evalue: str) -> Future[int]:
        """Answer all held messages that want a kernel with an error; how many there were."""
        return self._call(lambda: self._discard(ename, evalue), lambda: 0)

    def notify(self, text: str) -> None:
        """Show a line under the last cell, whether a kernel is there or not."""
        self._do(lambda: self._notify(text), _nothing)

    def close(self) -> Future[None]:
        """End the relay: addresses are free and the thread is gone. Idempotent."""
        future: Future[None] = Future()
        self._do(lambda: self._begin_close(future), lambda: _settle(future, None))
        return future

    def _call(self, work: Callable[[], T], closed: Callable[[], T]) -> Future[T]:
        """Have the relay's thread work; ``closed`` gives the result where there is none."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                result = work()
            except BaseException as error:
                _settle(future, error=error)
                raise
            _settle(future, result)

        self._do(run, lambda: _settle(future, closed()))
        return future

    def _do(self, work: Callable[[], None], closed: Callable[[], object]) -> None:
        """Have the relay's thread do ``work``, or do ``closed`` where the relay is not open."""
        with self._bell_lock:
            if not self._closed and self._thread is not None:
                self._commands.put((work, closed))
                self._bell.send(b"")
                return
        closed()

    # -- the relay's thread ------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._ending:
            try:
                self._turn()
            except zmq.ContextTerminated:
                return
            except Exception:
                _log.exception("The relay met an error and goes on")

    def _turn(self) -> None:
        if self._resting:
            # Traffic is counted now and then, not message by message: each look takes Python's
            # lock from those who send and receive.
            self._resting = False
            ready = dict(self._bell_poller.poll(_REST))
        else:
            timeout = self._handshake.milliseconds_left() if self._attaching else None
            ready = dict(self._poller.poll(timeout))
        if self._bell_end in ready:
            for _ in received(self._bell_end):
                work, _ = self._commands.get_nowait()
                work()
                if self._ending:
                    return
        if self._carriers is not None:
            self._resting = self._count_captured()
            return
        for name in CHANNELS:
            if self._fronts[name] in ready:
                for frames in received(self._fronts[name]):
                    self._from_client(name, frames)
        if self._attaching is not None:
            self._go_on_attaching()
        elif self._question is not None:
            self._go_on_asking()

    def _listen(self) -> None:
        """Choose what to wait for; to be called whenever sockets change hands."""
        self._resting = False
        self._bell_poller = zmq.Poller()
        self._bell_poller.register(self._bell_end, zmq.POLLIN)
        self._poller = zmq.Poller()
        own = [self._bell_end]
        if self._carriers is not None:
            own += self._carriers.captures.values()
        else:
            own += self._fronts.values()
        if self._attaching is not None or self._question is not None:
            own += self._backs.values()
        for socket in own:
            self._poller.register(socket, zmq.POLLIN)

    # -- clients, while no kernel is there ---------------------------------------------------

    def _from_client(self, channel: str, frames: list[bytes]) -> None:
        if channel == "hb":
            self._fronts["hb"].send_multipart(frames)
        elif channel == "iopub":
            if frames[0][:1] == b"\x01":
                self._stand.welcome(frames[0][1:])
        elif channel != "stdin" and (message := self._stand.read(channel, frames)) is not None:
            self._take(message)

    def _take(self, message: Held) -> None:
        if self._mode is HoldMode.WAITING and self._answer(message):
            return
        full = (
            len(self._held) >= self._limits.messages
            or self._held_bytes + message.size > self._limits.bytes
        )
        if full:
            self._stand.refuse_over(message, self._limits)
            return
        self._held.append(message)
        self._held_bytes += message.size
        if message.kind == "execute_request":
            self._last_cell = message.header
        if self._counter.request(message.header):
            self._tell_activity()
        if self._mode is HoldMode.WAITING:
            self._show_waiting(message)
            if message.wants:
                self._tell(self.events.wanted)

    def _answer(self, message: Held) -> bool:
        """Deal with a message that does not need the kernel."""
        if message.kind == "interrupt_request":
            self._stand.reply(message, {"status": "ok"})
            self._tell(self.events.interrupted)
        elif message.kind == "shutdown_request":
            self._stand.reply(message, {"status": "ok", "restart": message.restart})
            self._tell(lambda: self.events.shutdown(message.restart))
        else:
            return self._stand.answer(message)
        return True

    def _show_waiting(self, message: Held) -> None:
        if message.kind == "execute_request":
            if message.display_id is None:
                self._stand.status("busy", message)
            self._stand.show_notice(message, self._notice)

    def _set_mode(self, mode: HoldMode, notice: str) -> None:
        changed = mode is not self._mode or notice != self._notice
        self._mode, self._notice = mode, notice
        if not changed or self._carriers is not None:
            return
        if mode is HoldMode.WAITING:
            waiting, self._held, self._held_bytes = self._held, [], 0
            for message in waiting:
                if not self._answer(message):
                    self._held.append(message)
                    self._held_bytes += message.size
        for message in self._held:
            if notice:
                self._show_waiting(message)

    def _discard(self, ename: str, evalue: str) -> int:
        dropped = [message for message in self._held if message.wants]
        self._held = [message for message in self._held if not message.wants]
        self._held_bytes = sum(message.size for message in self._held)
        for message in dropped:
            self._stand.refuse(message, ename, evalue)
            self._counter.reply("execute_reply", message.header.get("msg_id"))
        if dropped:
            self._tell_activity()
        return len(dropped)

    # -- a kernel comes ----------------------------------------------------------------------

    def _begin_attach(
        self, back: Connection, future: Future[Mapping[str, Any]], *, paused: bool
    ) -> None:
        self._detach()
        self._stay_paused = paused
        try:
            self._backs = connect_backs(back)
            self._backs["iopub"].connect(self._notices_address)
            self._monitor = self._backs["shell"].get_monitor_socket(zmq.EVENT_DISCONNECTED)
        except zmq.ZMQError as error:
            self._drop_backs()
            _settle(future, error=GpuShareError(f"The kernel cannot be reached: {error.strerror}."))
            return
        self._attaching = future
        self._handshake = Handshake()
        self._listen()
        self._ask()

    def _ask(self) -> None:
        message = self._stand.session.send(
            self._backs["shell"], "kernel_info_request", {}, ident=OWN_IDENT
        )
        assert message is not None
        self._handshake.sent(message["header"]["msg_id"])

    def _go_on_attaching(self) -> None:
        assert self._attaching is not None
        if self._attaching.cancelled():
            self._drop_backs()
            return
        for frames in received(self._backs["iopub"]):
            header, parent, content = parts(frames)
            if parent.get("session") != self._stand.session.session:
                self._fronts["iopub"].send_multipart(frames)
            elif header.get("msg_type") == "status" and content.get("execution_state") == "idle":
                self._handshake.heard(parent.get("msg_id"))
        for name in ("shell", "control"):
            for frames in received(self._backs[name]):
                header, parent, content = parts(frames)
                if header.get("msg_type") == "kernel_info_reply":
                    self._handshake.answered(parent.get("msg_id"), content)
        if self._handshake.done:
            self._finish_attach()
        elif self._handshake.overdue:
            self._ask()

    def _finish_attach(self) -> None:
        """Hand over what was held, in order, and then the sockets."""
        future, self._attaching = self._attaching, None
        info = self._stand.kernel_info = self._handshake.info
        if self._stay_paused:
            self._listen()
        else:
            self._hand_over()
        if future is not None:
            _settle(future, info)

    def _hand_over(self, line: str = "") -> None:
        waiting, self._held, self._held_bytes = self._held, [], 0
        for message in waiting:
            self._stand.hide_notice(message)
        if line:
            cells = [each.header for each in waiting if each.kind == "execute_request"]
            self._stand.say(line, cells[0] if cells else self._last_cell)
        for channel in CAPTURED:
            for message in waiting:
                if message.channel == channel:
                    self._backs[channel].send_multipart(message.frames)
        self._carriers = Carriers(self._fronts, self._backs)
        self._listen()

    # -- what is asked of a kernel that is paused --------------------------------------------

    def _begin_ask(self, code: str, buffers: Sequence[bytes], future: Future[Answer]) -> None:
        paused = bool(self._backs) and self._carriers is None and self._attaching is None
        if not paused or (self._question is not None and not self._question.given_up):
            _settle(future, error=GpuShareError("The kernel cannot be asked now."))
            return
        message = self._stand.session.send(
            self._backs["shell"],
            "execute_request",
            asking(code),
            ident=OWN_IDENT,
            buffers=list(buffers),
        )
        assert message is not None
        self._question = Question(message["header"]["msg_id"], future)
        self._listen()

    def _go_on_asking(self) -> None:
        """Take what concerns the question; all else goes on to the clients."""
        question = self._question
        assert question is not None
        for name in CHANNELS:
            for frames in received(self._backs[name]):
                _, parent, _ = parts(frames, content=False)
                if parent.get("session") == self._stand.session.session:
                    question.heard(frames)
                else:
                    self._to_client(name, frames)
        if question.done:
            self._question = None
            self._listen()
            question.settle()

    # -- and goes ----------------------------------------------------------------------------

    def _detach(self) -> Activity:
        if self._attaching is not None:
            self._attaching.cancel()
            self._drop_backs()
        if not self._backs:
            return self._counter.snapshot()
        self._pause()
        self._pass_on_the_rest()
        last = self._counter.snapshot()
        self._drop_backs()
        self._counter.lost({str(message.header.get("msg_id")) for message in self._held})
        self._tell_activity()
        return last

    def _pause(self) -> Activity:
        if self._carriers is not None:
            self._carriers.stop()
            self._count_captured()
            self._carriers.close()
            self._carriers = None
            self._listen()
        return self._counter.snapshot()

    def _resume(self, line: str) -> None:
        if self._backs and self._carriers is None and self._attaching is None:
            if self._question is not None:
                question, self._question = self._question, None
                question.give_up("Nobody waits for the answer any more.")
            self._hand_over(line)

    def _pass_on_the_rest(self) -> None:
        """What the kernel sent last may still be under way when its end is known."""
        assert self._monitor is not None
        poller = zmq.Poller()
        for name in CHANNELS:
            poller.register(self._backs[name], zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        gone = False
        while True:
            ready = dict(poller.poll(_QUIET_GONE if gone else _QUIET))
            if not ready:
                return
            if self._monitor in ready:
                gone = True
                for _ in received(self._monitor):
                    pass
            for name in CHANNELS:
                if self._backs[name] in ready:
                    for frames in received(self._backs[name]):
                        self._to_client(name, frames)

    def _to_client(self, name: str, frames: list[bytes]) -> None:
        with suppress(zmq.ZMQError):  # the client is gone
            self._fronts[name].send_multipart(frames)
        if name in CAPTURED:
            header, parent, _ = parts(frames)
            self._counter.reply(header.get("msg_type"), parent.get("msg_id"))

    def _drop_backs(self) -> None:
        if self._monitor is not None:
            self._backs["shell"].disable_monitor()
            self._monitor.close(linger=0)
            self._monitor = None
        close(self._backs)
        self._backs = {}
        self._attaching = None
        if self._question is not None:
            question, self._question = self._question, None
            question.give_up("The kernel is gone.")
        self._listen()

    def _listen_again(self) -> None:
        if self._carriers is None and rebind(self._fronts, self.connection):
            self._listen()

    # -- counting, telling -------------------------------------------------------------------

    def _count_captured(self) -> bool:
        """Count what passed since the last look. True where there was something."""
        assert self._carriers is not None
        any_passed = changed = False
        for capture in self._carriers.captures.values():
            for frames in received_heads(capture):
                any_passed = True
                changed |= self._count(frames)
        if changed:
            self._tell_activity()
        return any_passed

    def _count_now(self) -> Activity:
        if self._carriers is not None:
            self._count_captured()
        return self._activity

    def _count(self, frames: list[bytes]) -> bool:
        header, parent, _ = parts(frames, content=False)
        kind = str(header.get("msg_type", ""))
        if kind.endswith("_reply"):
            return self._counter.reply(kind, parent.get("msg_id"))
        if kind != "execute_request":
            return self._counter.request(header)
        # Only a cell that the kernel will accept counts: no other is ever answered.
        start = frames.index(DELIMITER)
        signed = frames[start + 2 : start + 6]
        if self._key and self._stand.session.sign(signed) != frames[start + 1]:
            return False
        self._last_cell = header
        return self._counter.request(header)

    def _notify(self, text: str) -> None:
        if self._carriers is None:
            self._stand.say(text, self._last_cell)
        else:
            content = line_of(text)
            self._stand.session.send(
                self._notices, "stream", content, parent=self._last_cell, ident=b"stream.stderr"
            )

    def _tell_activity(self) -> None:
        self._activity = self._counter.snapshot()
        self._tell(lambda: self.events.activity(self._activity))

    def _tell(self, event: Callable[[], None]) -> None:
        try:
            event()
        except Exception:
            _log.exception("The owner of a relay failed to take note of an event")

    # -- the end -----------------------------------------------------------------------------

    def _begin_close(self, future: Future[None]) -> None:
        with self._bell_lock:
            self._closed = True
        self._ending = True
        try:
            self._detach()
            self._discard("KernelShutdown", "The kernel was shut down.")
        finally:
            for front in self._fronts.values():
                front.close(linger=1000)
            for socket in (self._bell, self._bell_end, self._notices):
                socket.close(linger=0)
            unlink(self.connection)
            _open.discard(self)
            while not self._commands.empty():
                _, closed = self._commands.get_nowait()
                closed()
            _settle(future, None)


def _nothing() -> None:
    """What a closed relay does about words."""


def _settle(future: Future[T], result: T | None = None, error: BaseException | None = None) -> None:
    """Finish a future that somebody may have cancelled meanwhile."""
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)  # type: ignore[arg-type]


@atexit.register
def _close_all() -> None:
    """Leave no thread in libzmq's loops when the interpreter ends."""
    for future in [relay.close() for relay in list(_open)]:
        with suppress(Exception):
            future.result(_CLOSE_PATIENCE)
