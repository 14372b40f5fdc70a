"""The first process of a kernel's pod: starts, restarts, watches and ends the kernel.

::

    python3 -m gpu_share_kernel.agent /path/of/the/mounted/secret

It needs nothing but Python and pyzmq, which every image with ipykernel has. A Jupyter server that
knows the keys says what to run, renews the pod's life and is told what becomes of the kernel. A
pod of which no server has been heard for a while ends: what it holds is not lost to everybody.
"""

import hashlib
import hmac
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time

from gpu_share_kernel import readings
from gpu_share_kernel.zygote import Zygote, module_of

__all__ = ["Agent", "main"]

_READ_INTERVAL = 2.0
#: An owner that was silent for this part of the watchdog's time may be replaced by another server.
_STALE = 0.25
_GRACE = 5.0
_CONNECTION = "connection.json"


def main(argv=None):
    """Run until the pod is to end; the exit code is the kernel's last one."""
    folder = (argv or sys.argv[1:])[0]
    zygote = Zygote.spawn()  # before anything that does not survive a fork is there
    return Agent(folder, zygote).run()


class Agent:
    """One kernel, over all processes that it ever has in this pod."""

    def __init__(self, folder, zygote):
        with open(os.path.join(folder, "agent.json")) as file:
            settings = json.load(file)
        self.folder = folder
        self.zygote = zygote
        self.watchdog = float(settings["watchdog"])
        self._key = settings["key"].encode()
        self._settings = settings
        self._owner = None
        self._peer = None
        self._heard = time.monotonic()
        self._run = None
        self._pid = None
        self._process = None
        self._exit = None
        self._order = None
        self._warm = None
        self._cold = ""
        self._ooms = 0
        self._env = {}
        self._gpu = None
        self._last = None
        self._ending = None
        self._bell = os.pipe()
        self._private = None

    # -- the loop ------------------------------------------------------------------------------

    def run(self):
        """Serve until told to end, or until no server is left."""
        for end in self._bell:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._bell[1], warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        import zmq

        self._zmq = zmq
        self._socket = self._listen()
        poller = select.poll()
        poller.register(self._socket.fd, select.POLLIN)
        poller.register(self._bell[0], select.POLLIN)
        poller.register(self.zygote.sock.fileno(), select.POLLIN)
        next_reading = time.monotonic() + _READ_INTERVAL
        while True:
            pause = max(0.0, min(next_reading, self._deadline()) - time.monotonic())
            ready = {descriptor for descriptor, _ in poller.poll(pause * 1000 + 1)}
            if self._bell[0] in ready:
                self._signals(os.read(self._bell[0], 4096))
            if self.zygote.sock.fileno() in ready and not self._zygote_news():
                poller.unregister(self.zygote.sock.fileno())
            # A ZeroMQ descriptor tells of changes only: always look.
            self._messages()
            now = time.monotonic()
            if now >= next_reading:
                next_reading = now + _READ_INTERVAL
                self._read()
            if self._ending is None and now > self._heard + self.watchdog:
                self._say("no Jupyter server was heard for %d s; the pod ends" % self.watchdog)
                self._begin_end()
            if self._ending is not None and (self._pid is None or now > self._ending):
                return self._end()

    def _listen(self):
        zmq = self._zmq
        socket = zmq.Context().socket(zmq.ROUTER)
        socket.linger = 200
        socket.router_handover = 1
        if self._settings.get("curve_secretkey"):
            socket.curve_server = 1
            socket.curve_publickey = self._settings["curve_publickey"].encode()
            socket.curve_secretkey = self._settings["curve_secretkey"].encode()
        socket.bind("tcp://%s:%d" % (self._settings["ip"], self._settings["port"]))
        return socket

    def _deadline(self):
        return self._ending if self._ending is not None else self._heard + self.watchdog

    def _signals(self, numbers):
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._begin_end()
        self._reap()

    # -- what a server says --------------------------------------------------------------------

    def _messages(self):
        while True:
            try:
                peer, signature, payload = self._socket.recv_multipart(self._zmq.NOBLOCK)
            except self._zmq.Again:
                return
            except ValueError:
                continue
            if not hmac.compare_digest(signature, self._sign(payload)):
                continue
            try:
                message = json.loads(payload)
                self._take(peer, message)
            except Exception as error:
                self._say("a message could not be followed: %r" % error)

    def _take(self, peer, message):
        now = time.monotonic()
        instance = message["instance"]
        stale = now > self._heard + min(30.0, self.watchdog * _STALE)
        if self._owner not in (None, instance) and not stale:
            self._send(peer, {"op": "refused"})
            return
        self._owner, self._peer, self._heard = instance, peer, now
        op = message["op"]
        if op == "start":
            self._start(message)
        elif op == "signal":
            self._signal(message["signum"])
        elif op == "end":
            self._signal(signal.SIGKILL)
        elif op == "quit":
            self._begin_end(now=True)
        self._tell()

    def _sign(self, payload):
        return hmac.new(self._key, payload, hashlib.sha256).hexdigest().encode()

    def _send(self, peer, message):
        payload = json.dumps(message).encode()
        self._socket.send_multipart([peer, self._sign(payload), payload])

    def _tell(self):
        """Say how things stand. Whoever missed a word learns everything from the next one."""
        if self._peer is not None:
            state = {
                "op": "state",
                "run": self._run,
                "pid": self._pid,
                "exit": self._exit,
                "reading": self._last,
            }
            self._send(self._peer, state)

    # -- the kernel ----------------------------------------------------------------------------

    def _start(self, message):
        if message["run"] == self._run:
            return  # said again because our answer was lost
        if self._pid is not None:
            self._say("the old kernel is ended first")
            self._signal(signal.SIGKILL)
        self._run, self._exit, self._last = message["run"], None, None
        self._order = message
        self._ooms = readings.memory_events() or 0
        self._go()

    def _go(self):
        """Start what is wanted as soon as the old kernel is gone and it is known how."""
        order = self._order
        if order is None or self._pid is not None:
            return
        own = {k: v for k, v in os.environ.items() if k not in order.get("drop", ())}
        env = dict(own, **order["env"])
        folder = env.get("JUPYTER_GPU_SHARE_SIMULATED_DIR")
        if folder:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        path = self._connection_file()
        argv = [part.replace("{connection_file}", path) for part in order["argv"]]
        module = module_of(argv)
        if module is not None and self._warm is None:
            return  # still importing
        self._order = None
        self._env = env
        if module is not None and self._warm:
            self.zygote.fork(self._run, module, env, order.get("cwd"))
        else:
            self._exec(argv, env, order.get("cwd"))

    def _connection_file(self):
        """A copy that the kernel may write to, as ipykernel does."""
        if self._private is None:
            self._private = tempfile.mkdtemp(prefix="gpu-share-")
        path = os.path.join(self._private, _CONNECTION)
        if not os.path.exists(path):
            with open(os.path.join(self.folder, _CONNECTION)) as file:
                content = file.read()
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(content)
        return path

    def _exec(self, argv, env, cwd):
        try:
            self._process = subprocess.Popen(
                argv,
                env=env,
                cwd=cwd if cwd and os.path.isdir(cwd) else None,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            why = self._cold or "its command %s cannot be run: %s" % (argv[0], error.strerror)
            self._ended(1, why)
            return
        self._pid = self._process.pid
        self._tell()

    def _zygote_news(self):
        """Take note of what the importing process tells. False once it is gone."""
        told = self.zygote.news()
        for news in told or []:
            if news["what"] == "warm":
                self._warm = True
                self._go()
            elif news["what"] == "cold":
                self._warm, self._cold = False, news["why"]
                self._say(news["why"])
                self._go()
            elif news["what"] == "started" and news["run"] == self._run:
                self._pid = news["pid"]
                self._tell()
            elif news["what"] == "ended" and news["run"] == self._run:
                self._ended(_code(news["status"]))
            elif news["what"] == "ended":
                self._pid = None
                self._go()
        if told is None:
            # Kernels are started anew from now on; one that runs goes on, and is looked for.
            self._warm = False
            self._go()
            return False
        return True

    def _reap(self):
        """Wait for whatever has ended: as the first process this one inherits all orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                if self._process is not None:
                    self._process.returncode = _code(status)
                    self._process = None
                self._ended(_code(status))

    def _signal(self, number):
        """To the kernel's whole session, which it leads."""
        if self._pid is not None:
            try:
                os.killpg(self._pid, number)
            except (ProcessLookupError, PermissionError):
                pass
        elif number in (signal.SIGKILL, signal.SIGTERM) and self._order is not None:
            self._order = None
            self._ended(-number)

    def _ended(self, code, why=""):
        pid, self._pid = self._pid, None
        if not why:
            ooms = readings.memory_events()
            if code == -signal.SIGKILL and ooms is not None and ooms > self._ooms:
                why = "oom"
        if pid is not None:
            # What the kernel left running would go on using the GPU.
            for left in readings.tree(pid) - {pid, os.getpid(), self.zygote.pid}:
                try:
                    os.kill(left, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    continue
        if self._order is None:
            self._exit = {"code": code, "why": why}
            self._last = None
            self._tell()
        else:
            self._go()

    # -- readings ------------------------------------------------------------------------------

    def _read(self):
        if self._pid is None or self._peer is None:
            return
        pids = readings.tree(self._pid)
        folder = self._env.get("JUPYTER_GPU_SHARE_SIMULATED_DIR")
        if folder:
            used, utilization = readings.simulated_use(folder, pids, time.time())
        else:
            if self._gpu is None:
                self._gpu = readings.Gpu()
            used, utilization = self._gpu.read(pids) if self._gpu.present else (None, None)
        reading = {
            "used_bytes": used,
            "utilization": utilization,
            "memory_bytes": readings.resident_bytes(pids) // 2**20 * 2**20,
        }
        if reading != self._last:
            self._last = reading
            self._tell()

    # -- the end -------------------------------------------------------------------------------

    def _begin_end(self, now=False):
        if self._ending is None:
            self._ending = time.monotonic() + (0.0 if now else _GRACE)
            self._order = None
            self._signal(signal.SIGKILL if now else signal.SIGTERM)

    def _end(self):
        self._signal(signal.SIGKILL)
        self._tell()
        self._socket.close()
        code = self._exit["code"] if self._exit else 0
        return code if 0 <= code < 256 else 128 - code

    def _say(self, text):
        sys.stderr.write("gpu-share agent: %s\n" % text)
        sys.stderr.flush()


def _code(status):
    """As :mod:`subprocess` gives it: negative for a signal."""
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    sys.exit(main())
