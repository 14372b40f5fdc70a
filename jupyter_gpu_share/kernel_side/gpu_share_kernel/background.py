"""What still works in a kernel although no cell runs: processes, threads and asyncio tasks.

Unknown counts as work. Only what is known to wait for others, such as ipykernel's own threads and
the workers of a pool that have nothing to do, is left out.
"""

import asyncio
import os
import re
import sys
import threading

__all__ = ["running"]

#: Modules whose threads and tasks belong to the kernel, or only watch.
_HELPERS = re.compile(
    r"(IPython\.core|_pydevd_bundle|debugpy|gpu_share_kernel|ipykernel|pydevd|tqdm|zmq\.auth"
    r"|zmq\.utils\.garbage)(\..*)?"
)
#: Functions of threads that hand work on to processes or other threads, which count themselves.
_HANDLERS = (
    ("multiprocessing.pool", "Pool._handle_"),
    ("multiprocessing.pool", "ThreadPool._handle_"),
    ("multiprocessing.queues", "Queue._feed"),
)
#: Functions that a pool's worker is in, and in no other, while it waits for work.
_WORKERS = frozenset([("concurrent.futures.thread", "_worker"), ("multiprocessing.pool", "worker")])
#: In the command line of processes that only look after others.
_TRACKERS = ("resource_tracker import main", "multiprocessing.forkserver import main")
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
    for pid in sorted((own | strays) - ancestors - {me}):
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
            if frame is not None and not _helper(_module(_outermost(frame))):
                lines.append("thread `%s`" % thread.name)
            continue
        target = getattr(thread, "_target", None)
        module = getattr(target, "__module__", None) or type(thread).__module__
        name = getattr(target, "__qualname__", "")
        if _helper(module) or _waits(module, name, frame):
            continue
        if (module, name) in _WORKERS:
            lines.append("worker `%s` of a pool" % thread.name)
        else:
            lines.append("thread `%s`%s" % (thread.name, _running(thread, target, name)))
    for ident, frame in frames.items():
        start = _outermost(frame)
        if ident not in here and not _helper(_module(start)):
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
    if module == "concurrent.futures.process":  # its processes count
        return True
    if frame is None or (module, name) not in _WORKERS:
        return False
    return (_module(frame), frame.f_code.co_name) == (module, name)


def _outermost(frame):
    while frame.f_back is not None:
        frame = frame.f_back
    return frame


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
