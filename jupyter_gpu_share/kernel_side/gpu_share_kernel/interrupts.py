"""An interrupt that meets a question of the server: the work is cut short where that is harmless.

ipykernel loses the reply of a cell that is interrupted outside of the cell's own code. So while a
question is worked on, SIGINT is noted, and raised only within :func:`allowed`.
"""

import contextlib
import signal
import threading

__all__ = ["allowed", "begin", "check", "commit", "noted"]


class _State:
    """Of the one question that is worked on.

    Attributes
    ----------
    came: an interrupt came.
    wanted: the work may be cut short.
    open: the next interrupt is raised where the work is. At most one ever is, so that whoever
        handles it is not interrupted in turn.
    """

    def __init__(self):
        self.came = self.wanted = self.open = False

    def handle(self, signum, frame):
        self.came = True
        if self.open:
            self.open = False
            raise KeyboardInterrupt


_state = _State()


def begin():
    """Note interrupts from here on. Nothing on other threads than the main one."""
    global _state
    if threading.current_thread() is threading.main_thread():
        _state = _State()
        signal.signal(signal.SIGINT, _state.handle)


@contextlib.contextmanager
def noted():
    """Within the block an interrupt is noted, also where :func:`begin` was not called."""
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.getsignal(signal.SIGINT)
    own = before is not None and before != _state.handle
    if own:
        begin()
    try:
        yield
    finally:
        if own:
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def allowed(wanted):
    """Within the block an interrupt raises ``KeyboardInterrupt``, if that is ``wanted``."""
    _state.wanted = wanted
    try:
        _state.open = wanted and not _state.came
        check()
        yield
    finally:
        _state.open = _state.wanted = False


def check():
    """Raise an interrupt that came, and that somebody's code has swallowed since.

    Raises
    ------
    KeyboardInterrupt: one came, and the work may be cut short.
    """
    if _state.wanted and _state.came:
        _state.open = False
        raise KeyboardInterrupt


def commit():
    """Nothing that is done from here on is cut short."""
    check()
    _state.open = _state.wanted = False
