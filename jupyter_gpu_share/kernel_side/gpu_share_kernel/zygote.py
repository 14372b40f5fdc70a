"""Starts kernels by forking a process that has ipykernel imported already.

Importing takes most of a kernel's start. The agent forks this process first; while it imports,
the agent gets ready and learns what to run, and a restart of the kernel imports nothing any more.
No ZeroMQ context, no thread and nothing of CUDA exists here: none of them survives a fork.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import sys
import threading
import time

__all__ = ["Zygote", "module_of", "survives_fork"]

#: What ipykernel needs to run its first cell; a module that is missing costs only the head start.
_WARM = (
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "ipykernel.zmqshell",
    "ipykernel.subshell_manager",
    "IPython.core.completerlib",
    "IPython.core.magics",
    "comm",
    "jupyter_client.session",
    "tornado.platform.asyncio",
    "zmq.auth.asyncio",
)
_LAUNCHER = "ipykernel_launcher"
#: Beginnings of the names of variables that Python, the loader or the C library read once. A
#: module of the kernel's own PYTHONPATH counts before one that is imported here already.
_AT_START = ("PYTHON", "LD_", "MALLOC_", "GLIBC_TUNABLES")

#: Environment of the kernel that this process has become; the system shows the agent's.
started_with = None  # type: dict[str, str] | None


def module_of(argv):
    """The arguments of ``python … -m ipykernel_launcher …`` after the module; None for others.

    What stands between the interpreter and ``-m`` are its flags, which the agent runs under too.
    """
    try:
        at = argv.index("-m", 1)
    except ValueError:
        return None
    if argv[at + 1 : at + 2] != [_LAUNCHER] or not all(a.startswith("-") for a in argv[1:at]):
        return None
    return list(argv[at + 2 :])


def survives_fork(env):
    """False where something of an environment is read only when a process starts."""
    names = {name for name in [*env, *os.environ] if name.startswith(_AT_START)}
    return all(env.get(name) == os.environ.get(name) for name in names)


class Zygote:
    """The agent's end. Made by :meth:`spawn` before the agent has anything that a fork breaks."""

    def __init__(self, pid, sock):
        self.pid = pid
        self.sock = sock
        self._rest = b""

    @classmethod
    def spawn(cls):
        """Fork the process that imports, and go on."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid:
            theirs.close()
            ours.setblocking(False)
            return cls(pid, ours)
        ours.close()
        code = 1
        try:
            code = _serve(theirs)
        except BrokenPipeError:
            pass  # the agent is gone
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def fork(self, argv, env, cwd):
        """Ask for a kernel. What becomes of it is told by :meth:`news`.

        Raises
        ------
        OSError: the process is gone.
        """
        order = {"argv": argv, "env": env, "cwd": cwd}
        self.sock.setblocking(True)
        try:
            self.sock.sendall(json.dumps(order).encode() + b"\n")
        finally:
            self.sock.setblocking(False)

    def news(self):
        """What has been told since: a list of dicts, or None where the process is gone."""
        told = []  # type: list[dict[str, object]]
        while True:
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                return told
            except OSError:
                return told or None
            if not data:
                return told or None
            self._rest += data
            *lines, self._rest = self._rest.split(b"\n")
            told += [json.loads(line) for line in lines]


def _serve(sock):
    """Import, then fork a kernel for every order until the agent is gone."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the kernel
    signal.set_wakeup_fd(-1)
    gc.disable()  # what is imported is no garbage, and looking for some takes a sixth of the time
    problem = _warm_up()
    lacking = bool(problem)
    if not lacking and (threading.active_count() != 1 or _native_threads() != 1):
        problem = "a module of the image starts threads when it is imported"
    if problem:
        _tell(sock, {"what": "cold", "why": problem, "lacking": lacking})
        return 0
    gc.freeze()  # what is here already is shared with the kernels, and stays so
    _tell(sock, {"what": "warm"})
    # Ended kernels are waited for as soon as they end: the agent has to know.
    read, write = os.pipe()
    os.set_blocking(write, False)
    os.set_blocking(read, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return _take_orders(sock, read, write)


def _warm_up():
    try:
        import ipykernel  # noqa: F401 - only to see whether it is there
    except ImportError as error:
        return "ipykernel cannot be imported: %s" % error
    for name in _WARM:
        try:
            __import__(name)
        except Exception:  # noqa: S112 - of another version of ipykernel
            continue
    return ""


def _native_threads():
    """Those of libraries included, of which Python does not know."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def _take_orders(sock, wake, ring):
    import select

    pids = set()  # type: set[int]
    rest = b""
    while True:
        ready, _, _ = select.select([sock, wake], [], [])
        if wake in ready:
            try:
                os.read(wake, 4096)
            except BlockingIOError:
                pass
            for pid, status in _ended(pids):
                _tell(sock, {"what": "ended", "pid": pid, "status": status})
        if sock in ready:
            data = sock.recv(65536)
            if not data:
                return 0
            rest += data
            *lines, rest = rest.split(b"\n")
            for line in lines:
                order = json.loads(line)
                try:
                    pid = os.fork()
                except OSError as error:
                    why = "no process could be started: %s" % error.strerror
                    _tell(sock, {"what": "failed", "why": why})
                    continue
                if pid == 0:
                    _become_kernel(order, [sock.fileno(), wake, ring])
                pids.add(pid)
                _tell(sock, {"what": "started", "pid": pid})


def _ended(pids):
    while pids:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid in pids:
            pids.discard(pid)
            yield pid, status


def _tell(sock, message):
    sock.sendall(json.dumps(message).encode() + b"\n")


def _become_kernel(order, descriptors):
    """Never returns: runs ipykernel as if this process had been started for it."""
    code = 1
    try:
        gc.enable()
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for descriptor in descriptors:
            os.close(descriptor)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        prepare(order["env"], order["cwd"])
        sys.argv = [_LAUNCHER, *order["argv"]]
        # As the interpreter does for -m: the working directory comes first.
        sys.path.insert(0, os.getcwd())
        runpy.run_module(_LAUNCHER, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if not isinstance(end.code, (int, type(None))):
            sys.stderr.write("%s\n" % end.code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code & 0xFF)


def prepare(env, cwd):
    """Take on an environment and a folder, as Python does when it starts."""
    global started_with
    started_with = dict(env)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    if cwd:
        try:
            os.chdir(cwd)
        except OSError as error:
            sys.stderr.write("gpu-share: stays in %s: %s\n" % (os.getcwd(), error))
    if os.environ.get("JUPYTER_GPU_SHARE_UUID"):
        try:
            from gpu_share_kernel import caps

            caps.install()
        except Exception as error:  # a kernel without soft caps is better than none
            sys.stderr.write("gpu-share: frameworks are not capped: %s\n" % error)
