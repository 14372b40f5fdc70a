"""What still works in a kernel although no cell runs: processes, threads and asyncio tasks.

Unknown counts as work. Only what is known to wait for others is left out: ipykernel's own threads,
the debugger, the workers of a pool and event loops that have nothing to do, and log listeners whose
queue is empty. They begin nothing by themselves: whoever gives them something counts as work. A
thread that waits for connections, such as a server's, counts, for they come from outside.
"""

import asyncio
import os
import re
import sys
import threading
from typing import Any  # noqa: F401 - in a comment

__all__ = ["running"]

#: Modules whose threads and tasks belong to the kernel, or only watch.
_HELPERS = re.compile(
    r"(IPython\.core|_pydevd_bundle|debugpy|gpu_share_kernel|ipykernel|pydevd|tqdm|zmq\.auth"
    r"|zmq\.utils\.garbage|torch\._inductor\.compile_worker)(\..*)?"
)
#: Functions of threads that hand work on to processes or other threads, which count themselves.
_HANDLERS = (
    ("multiprocessing.pool", "Pool._handle_"),
    ("multiprocessing.pool", "ThreadPool._handle_"),
    ("multiprocessing.queues", "Queue._feed"),
    ("joblib.externals.loky.backend.queues", "Queue._feed"),
    ("loky.backend.queues", "Queue._feed"),
)
#: Of pools of processes that a thread looks after: Python's own, and joblib's.
_EXECUTORS = (
    "concurrent.futures.process",
    "joblib.externals.loky.process_executor",
    "loky.process_executor",
)
#: Functions that a pool's worker is in, and in no other, while it waits for work.
_WORKERS = frozenset([("concurrent.futures.thread", "_worker"), ("multiprocessing.pool", "worker")])
#: In the command line of processes that only look after others.
_TRACKERS = (
    "resource_tracker import main",
    "multiprocessing.forkserver import main",
    "debugpy/adapter --for-server",
    # Compiles what a cell asks for, and lives as long as the kernel.
    "torch/_inductor/compile_worker",
)
#: Modules of functions that only call the function of a thread.
_STARTERS = ("threading", "_pydev_bundle.pydev_monkey")
#: Arguments of the thread of a pool that looks after the workers: its tasks, and its workers.
_TASKS, _POOL = 0, 5
_AGENT = "gpu_share_kernel.agent"
_CLAIM = "JUPYTER_GPU_SHARE_CLAIM"
_LONGEST = 60


def running():
    """What works although no cell runs, each a line for the user; nothing is changed by looking.

    What cannot be seen counts as work, and is named so.
    """
    found = []
    for what, look in (
        ("child processes", _processes),
        ("threads", _threads),
        ("asyncio tasks", _tasks),
    ):
        try:
            found += look()
        except Exception as error:
            found.append("it cannot be seen whether %s run: %s" % (what, error or type(error)))
    return found


# -- processes -------------------------------------------------------------------------------------


def _processes():
    me = os.getpid()
    table = _table()
    ancestors = _ancestors(table, me)
    own = _tree(table, [me])
    if os.getsid(0) == me:
        own |= {pid for pid, row in table.items() if row.session == me}
    own |= _claimed(table, ancestors)
    # What lost its parent in a pod belongs to the agent; nothing but the kernel starts any there.
    agents = [pid for pid in ancestors if _AGENT in _command(pid)]
    strays = _tree(table, agents) - own
    if _AGENT not in _command(me):
        strays = {pid for pid in strays if _AGENT not in _command(pid)}
    named = _named()
    lines = []
    for pid in sorted((own | strays) - ancestors - _idle_workers() - {me}):
        if table[pid].state in "ZX":
            continue
        command = _command(pid)
        if not command and not os.path.exists("/proc/%d" % pid):
            continue  # it has ended meanwhile
        if any(tracker in command for tracker in _TRACKERS):
            continue
        name = named.get(pid) or _short(command) or table[pid].name
        lines.append("child process `%s` (%d)" % (name, pid))
    return lines


class _Row:
    def __init__(self, text):
        before, _, after = text.rpartition(")")
        fields = after.split()
        self.name = before.partition("(")[2]
        self.state, self.parent, self.session = fields[0], int(fields[1]), int(fields[3])


def _table():
    """All processes by number."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name, errors="replace") as file:
                    table[int(name)] = _Row(file.read())
            except OSError:  # it has ended
                continue
    return table


def _tree(table, roots):
    """Those below ``roots``, which are not among them."""
    below = {}  # type: dict[int, list[int]]
    for pid, row in table.items():
        below.setdefault(row.parent, []).append(pid)
    found, todo = set(), list(roots)
    while todo:
        more = [pid for pid in below.get(todo.pop(), ()) if pid not in found]
        found.update(more)
        todo += more
    return found


def _ancestors(table, pid):
    found = set()
    while pid in table and table[pid].parent not in found:
        pid = table[pid].parent
        found.add(pid)
    return found


def _claimed(table, ancestors):
    """Those that carry this kernel's mark on, wherever they went."""
    mark = os.environ.get(_CLAIM)
    if not mark:
        return set()
    wanted = ("%s=%s" % (_CLAIM, mark)).encode()
    found = set()
    for pid in table:
        try:
            with open("/proc/%d/environ" % pid, "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.add(pid)
        except OSError:  # somebody else's, or gone
            continue
    # With several kernels in one process tree the mark of an outer one is not theirs.
    return found - ancestors


def _command(pid):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            return file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _named():
    """Names that the user, or a pool, gave to processes of multiprocessing."""
    module = sys.modules.get("multiprocessing.process")
    # Asking in the usual way would collect those that have ended.
    children = list(getattr(module, "_children", ()))
    return {child.pid: child.name for child in children}


def _idle_workers():
    """Processes of pools that were given nothing to do; what those start counts as any other."""
    found = set()
    for thread in threading.enumerate():
        try:
            if type(thread).__module__ in _EXECUTORS:
                tasks = getattr(thread, "pending_work_items")  # noqa: B009 - not in all versions
                workers = set(getattr(thread, "processes"))  # noqa: B009
            elif getattr(getattr(thread, "_target", None), "__qualname__", "") == (
                "Pool._handle_workers"
            ):
                args = getattr(thread, "_args")  # noqa: B009
                tasks, workers = args[_TASKS], {each.pid for each in args[_POOL]}
            else:
                continue
        except Exception:  # noqa: S112 - another version of Python: they count as work
            continue
        if isinstance(tasks, dict) and not tasks:
            found |= workers
    return found


def _short(text):
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


# -- threads ---------------------------------------------------------------------------------------


def _threads():
    frames = sys._current_frames()
    here = {threading.main_thread().ident, threading.get_ident()}
    lines = []
    for thread in threading.enumerate():
        frame = frames.pop(thread.ident or 0, None)
        if thread.ident in here:
            continue
        if isinstance(thread, threading._DummyThread):
            # Python is not told when it ends; it works while it is in some function.
            if frame is not None and not _helper(_module(_start(frame))):
                lines.append("thread `%s`" % thread.name)
            continue
        target = getattr(thread, "_target", None)
        module = getattr(target, "__module__", None) or type(thread).__module__
        name = getattr(target, "__qualname__", "")
        if _helper(module) or _waits(module, name, frame):
            continue
        if _idle_loop(thread.ident, frame) or _idle_listener(module, target, frame):
            continue
        if (module, name) in _WORKERS:
            lines.append("worker `%s` of a pool" % thread.name)
        else:
            lines.append("thread `%s`%s" % (thread.name, _running(thread, target, name)))
    for ident, frame in frames.items():
        start = _start(frame)
        if ident not in here and not _helper(_module(start)) and not _idle_loop(ident, frame):
            lines.append("thread in `%s.%s`" % (_module(start), start.f_code.co_name))
    return lines


def _running(thread, target, name):
    if target is None:
        name = type(thread).__qualname__
    # Newer versions of Python name threads after their functions themselves.
    own = thread.name.endswith("(%s)" % name.rpartition(".")[2])
    return " (`%s`)" % name if name and not own else ""


def _helper(module):
    return _HELPERS.fullmatch(str(module)) is not None


def _waits(module, name, frame):
    if any(module == where and name.startswith(start) for where, start in _HANDLERS):
        return True
    if module in _EXECUTORS:  # its processes count
        return True
    if frame is None or (module, name) not in _WORKERS:
        return False
    return (_module(frame), frame.f_code.co_name) == (module, name)


def _idle_loop(ident, frame):
    """Whether a thread is in an event loop that waits, and has nothing to wait for.

    Such threads are there for as long as the process, as fsspec's is.
    """
    loop = _waiting_loop(frame)
    if loop is None:
        return False
    try:
        # A connection, or whatever else is waited for, may have the loop do something.
        files = set(loop._selector.get_map()) - {loop._ssock.fileno()}
        timers = [timer for timer in list(loop._scheduled) if not timer._cancelled]
        if asyncio.all_tasks(loop) or loop._ready or timers or files:
            return False
    except Exception:  # no loop of asyncio's own
        return False
    return _waiting_loop(sys._current_frames().get(ident)) is loop


def _waiting_loop(frame):
    """The event loop that waits in this frame; None where none does."""
    if frame is None or (_module(frame), frame.f_code.co_name) != ("selectors", "select"):
        return None
    above = frame.f_back
    if above is None or (_module(above), above.f_code.co_name) != (
        "asyncio.base_events",
        "_run_once",
    ):
        return None
    return above.f_locals.get("self")


def _idle_listener(module, target, frame):
    """Whether a thread is that of a ``QueueListener`` of logging, and its queue is empty."""
    if module != "logging.handlers" or frame is None:
        return False
    queue = getattr(getattr(target, "__self__", None), "queue", None)  # type: Any
    if type(queue).__module__ not in ("queue", "_queue") or not queue.empty():
        return False
    while frame is not None:
        if (_module(frame), frame.f_code.co_name) == ("logging.handlers", "dequeue"):
            return True
        frame = frame.f_back
    return False


def _start(frame):
    """The frame of the function that a thread was started with."""
    frames = [frame]
    while frame.f_back is not None:
        frame = frame.f_back
        frames.append(frame)
    inner = [each for each in reversed(frames) if _module(each) not in _STARTERS]
    return inner[0] if inner else frame


def _module(frame):
    return frame.f_globals.get("__name__", "")


# -- asyncio tasks ---------------------------------------------------------------------------------


def _tasks():
    loop = _loop()
    if loop is None:
        return []
    current = asyncio.current_task(loop)
    lines = []
    for task in asyncio.all_tasks(loop):
        coroutine = task.get_coro()
        if task is current or _helper(_module_of(coroutine)):
            continue
        name = getattr(coroutine, "__qualname__", "") or type(coroutine).__qualname__
        lines.append("asyncio task `%s`" % name)
    return sorted(lines)


def _loop():
    """The loop that cells run on."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    kernel = getattr(sys.modules["IPython"].get_ipython(), "kernel", None)
    return getattr(getattr(kernel, "io_loop", None), "asyncio_loop", None)


def _module_of(coroutine):
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        frame = getattr(coroutine, name, None)
        if frame is not None:
            return _module(frame)
    return ""
