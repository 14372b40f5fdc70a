"""Taking the kernel off its GPU without a Jupyter server, which may have had no time for it.

Who owns the pod orders it. The agent asks its own kernel what a server would ask: what works in it,
how it would leave its GPU, and to do so. A cell that runs has some time to end, and is then
interrupted once. What cannot be kept like that stays where it is, and why is told.
"""

import math
import time
from typing import Any  # noqa: F401 - in a comment

from gpu_share_kernel.own_client import OwnClient

__all__ = ["Parker"]

#: Parts of the patience that a cell has until it is interrupted, and until it has to be over. The
#: rest is for the move.
_INTERRUPT, _OVER = 0.5, 0.75
#: Seconds between two requests that show whether an interrupted cell is over.
_KNOCK = 1.0
#: Seconds after a reply within which what was answered has to be there, and before a next try.
_ANSWER, _AGAIN = 1.0, 0.1
#: Seconds until memory that was moved away has to be seen as free, and between two looks.
_FREE_PATIENCE, _FREE_INTERVAL = 15.0, 0.05
#: Seconds that the kernel has to move back where leaving has failed.
_BACK_PATIENCE = 30.0
_TOPIC = b"gpu-share"
#: The error of a question that an interrupt has met; see ``gpu_share_kernel.asked``.
_INTERRUPTED = ("interrupted", "KeyboardInterrupt")
_MESSAGES_AT_ONCE = 64
_MOST_SUBSHELLS = 64
_LONGEST_WHY = 300
_NEVER = math.inf


class _StaysError(Exception):
    """The kernel stays on its GPU; the text says why."""


class Parker:
    """Carries out the order to park one kernel, a step at a time. All methods return at once.

    Parameters
    ----------
    folder: of the mounted Secret.
    poller: is told of sockets to listen to while an order is carried out.
    interrupt: called to interrupt the running cell.
    used: gives the bytes of GPUs that the kernel's processes are seen to use; None: not known.

    Attributes
    ----------
    due: when :meth:`step` is to be called at the latest, in seconds of ``time.monotonic``.
    """

    def __init__(self, zmq, folder, poller, interrupt, used):
        self._zmq, self._folder, self._poller = zmq, folder, poller
        self._interrupt, self._used = interrupt, used
        self._order = None
        self._parked, self._why = False, ""
        self._watchdog = 0.0
        self._work = None
        self._client = None  # type: Any
        self._sockets = {}  # type: dict[str, Any]
        self._sent = set()  # type: set[str]
        self._replies = {}  # type: dict[str, tuple[str, dict[str, Any]]]
        self._answers = {}  # type: dict[str, dict[str, Any]]
        self.due = _NEVER

    @property
    def state(self):
        """The order, whether the kernel is parked by it, and why not, for whoever gave it."""
        return {"parking": self._order, "parked": self._parked, "park_why": self._why}

    @property
    def watchdog(self):
        """Seconds that the pod of a parked kernel lives without a server; None: not parked."""
        return self._watchdog if self._parked else None

    def begin(self, order, hindrance):
        """Carry out an order, unless it is the one that was carried out last.

        Parameters
        ----------
        order: ``park`` is an id of its own, by which one that is said again is known.
            ``vacate`` is false where the share is away already: nothing is asked of the kernel.
        hindrance: why nothing can be asked of the kernel, a sentence; empty: it can.

        Raises
        ------
        KeyError, TypeError, ValueError: it is no such order.
        """
        number, vacate = order["park"], order["vacate"]
        watchdog, patience = _seconds(order["watchdog"]), _seconds(order["patience"])
        if not isinstance(number, str) or not isinstance(vacate, bool):
            raise TypeError("not an order to park")
        if number == self._order:
            return
        self._close()
        self._order, self._watchdog = number, watchdog
        self._parked, self._why = False, ""
        if hindrance:
            self._why = hindrance
        elif vacate:
            self._work = self._leave(patience)
            self.step()
        else:
            self._parked = True

    def drop(self, why):
        """What was ordered holds no more, or will not be done; ``why`` is a sentence."""
        if self._work is not None or self._parked:
            self._settle(why)

    def step(self):
        """Go on as far as that is possible now. True where there is something to tell."""
        if self._work is None:
            return False
        try:
            self._hear()
            self.due = next(self._work)
        except StopIteration:
            self._settle("")
        except _StaysError as error:
            self._settle(str(error))
        except Exception as error:  # no socket, no connection file: the agent lives on
            self._settle("The kernel cannot be asked: %r" % error)
        return self._work is None

    def _settle(self, why):
        self._close()
        self._parked, self._why = not why, " ".join(why.split())[:_LONGEST_WHY]

    def _close(self):
        self._work, self.due = None, _NEVER
        for socket in self._sockets.values():
            self._poller.unregister(socket)
            socket.close(0)
        self._sockets, self._sent, self._replies, self._answers = {}, set(), {}, {}

    # -- the steps -------------------------------------------------------------------------------
    # Generators. Each time one gives until when it waits for the kernel to say something.

    def _leave(self, patience):
        begun = time.monotonic()
        end = begun + patience
        self._client = OwnClient(self._zmq, self._folder)
        for channel, topic in (("control", None), ("shell", None), ("iopub", _TOPIC)):
            socket = self._client.connect(channel, topic)
            self._sockets[channel] = socket
            self._poller.register(socket, self._zmq.POLLIN)
        subshells = yield from self._learn(end)
        yield from self._fall_silent(subshells, begun, patience)
        signs = yield from self._ask("signs", end)
        why = _hindrance(signs)
        if why:
            raise _StaysError(why)
        yield from self._move(end)

    def _learn(self, end):
        """The ids of the kernel's subshells. One that is not Python's is told nothing else."""
        asked = [self._send(channel, "kernel_info_request", {}) for channel in ("control", "shell")]
        yield from self._answered(asked, end, "The kernel does not say what it is.")
        info = next(self._replies[each][1] for each in asked if each in self._replies)
        language = info.get("language_info")
        name = language.get("name") if isinstance(language, dict) else None
        if not isinstance(name, str) or not name.lower().startswith("python"):
            raise _StaysError("Only Python's kernels can leave their GPU.")
        if "kernel subshells" not in (info.get("supported_features") or ()):
            return []
        listed = self._send("control", "list_subshell_request", {})
        yield from self._answered([listed], end, "The kernel does not say what runs in it.")
        ids = self._replies[listed][1].get("subshell_id")
        return [str(each) for each in ids][:_MOST_SUBSHELLS] if isinstance(ids, list) else []

    def _fall_silent(self, subshells, begun, patience):
        """Wait until no cell runs. One in a subshell cannot be interrupted."""
        end = begun + _OVER * patience
        aside = [self._knock(subshell_id=each) for each in subshells]
        knocks = [self._knock()]
        if not (yield from self._until(knocks, begun + _INTERRUPT * patience)):
            self._interrupt()
            # What meets the interrupt may never be answered.
            while not (yield from self._until(knocks, min(time.monotonic() + _KNOCK, end))):
                if time.monotonic() >= end:
                    raise _StaysError(
                        "A cell went on for %d s, although it was interrupted." % (end - begun)
                    )
                knocks.append(self._knock())
        for each in aside:
            late = "A cell in a subshell went on for %d s." % (end - begun)
            yield from self._answered([each], end, late)

    def _move(self, end):
        """Have the kernel leave its GPU, and see that its memory is free."""
        seen = self._used() is not None
        try:
            moved = yield from self._ask("vacate", end)
        except _StaysError as error:
            yield from self._back(str(error), moved=False)
        # One that has nothing on a GPU is listed nowhere; in containers none is.
        listed = seen or moved.get("how") == "nothing" or moved.get("proven") is True
        free = time.monotonic() + _FREE_PATIENCE
        used = self._used()
        while used or (used is None and not listed):
            now = time.monotonic()
            if now > free:
                why = "It is not known what is still in use on its GPU."
                if used:
                    why = "%d MiB are still in use on its GPU." % (used // 2**20)
                yield from self._back(why, moved=True)
            yield now + _FREE_INTERVAL
            used = self._used()

    def _back(self, why, moved):
        """Have the kernel move back, and tell why it stays.

        One that was ``moved`` in vain is not moved again.
        """
        end = time.monotonic() + _BACK_PATIENCE
        try:
            yield from self._ask("resume", end, limits={})
            if moved:
                yield from self._ask("failed", end, why=why)
        except _StaysError as error:
            why = "%s It may be off its GPU all the same: %s" % (why, error)
        raise _StaysError(why)

    # -- requests --------------------------------------------------------------------------------

    def _ask(self, what, end, **arguments):
        """What the kernel answers, a dict. It is asked again where a question is lost.

        That is where an interrupt met it, a failing cell had the cells behind it called off, or
        the kernel has not heard yet that somebody listens. All that is asked here may be asked
        twice.
        """
        late = "The kernel did not answer in time."
        code = "__import__('gpu_share_kernel.asked', fromlist=['answer']).answer(%r, **%r)"
        content = {
            "code": code % (what, arguments),
            "silent": True,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        while True:
            asked = self._send("shell", "execute_request", content)
            # It is answered after the question, or instead of it.
            behind = self._knock()
            yield from self._answered([asked, behind], end, late)
            if asked in self._replies:
                reply = self._replies[asked][1]
                error = reply.get("ename")
                if reply.get("status") == "error" and error not in _INTERRUPTED:
                    raise _StaysError("The kernel failed: %s: %s" % (error, reply.get("evalue")))
                if reply.get("status") == "ok":
                    yield from self._until_answer(asked, min(time.monotonic() + _ANSWER, end))
            answer = self._answers.pop(asked, {"error": _INTERRUPTED[0]})
            if "error" not in answer:
                result = answer.get("result")
                return result if isinstance(result, dict) else {}
            if answer["error"] not in _INTERRUPTED:
                raise _StaysError(str(answer["error"]))
            now = time.monotonic()
            if now >= end:
                raise _StaysError(late)
            again = min(now + _AGAIN, end)
            while time.monotonic() < again:
                yield again

    def _knock(self, **header):
        """Send a request that is answered as soon as no cell runs any more; its id."""
        return self._send("shell", "kernel_info_request", {}, **header)

    def _send(self, channel, kind, content, **header):
        metadata = {"gpu_share": {"last_cell": None}}
        sent = self._client.send(self._sockets[channel], kind, content, metadata, **header)
        self._sent.add(sent)
        return sent

    def _answered(self, ids, end, late):
        """Wait for the reply to any of some requests; ``late`` is why the kernel stays else."""
        if not (yield from self._until(ids, end)):
            raise _StaysError(late)

    def _until(self, ids, end):
        """Wait for the reply to any of some requests. False where none comes in time."""
        while not any(each in self._replies for each in ids):
            if time.monotonic() >= end:
                return False
            yield end
        return True

    def _until_answer(self, asked, end):
        while asked not in self._answers and time.monotonic() < end:
            yield end

    def _hear(self):
        """Take note of what the kernel has said."""
        for channel, socket in self._sockets.items():
            for _ in range(_MESSAGES_AT_ONCE):
                try:
                    frames = socket.recv_multipart(self._zmq.NOBLOCK)
                except self._zmq.Again:
                    break
                parent, kind, content = self._client.read(frames) or (None, "", {})
                if parent not in self._sent:
                    continue
                if channel != "iopub":
                    self._replies[parent] = kind, content
                elif kind == "gpu_share_answer":
                    self._answers[parent] = content


def _hindrance(signs):
    """Why a kernel that tells this of itself cannot leave its GPU; empty: it can."""
    background, planned = signs.get("background"), signs.get("vacate")
    how = planned.get("how") if isinstance(planned, dict) else None
    if how in ("nothing", "simulated"):
        return ""
    if how != "cuda":
        why = planned.get("why") if isinstance(planned, dict) else ""
        return str(why or "The kernel does not say how it would leave its GPU.")
    if background:
        # A thread that calls CUDA meanwhile could hold Python's lock, and with it the way back.
        works = ", ".join(map(str, background)) if isinstance(background, list) else "something"
        return "It cannot leave its GPU while this runs in it: %s" % works
    return ""


def _seconds(value):
    number = float(value)
    if not 0 < number < _NEVER:
        raise ValueError("not a time: %r" % value)
    return number
