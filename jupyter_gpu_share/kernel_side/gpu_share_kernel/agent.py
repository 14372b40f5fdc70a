"""The first process of a kernel's pod: starts, restarts, watches and ends the kernel.

::

    python3 -m gpu_share_kernel.agent /path/of/the/mounted/secret

It needs nothing but Python and pyzmq, which every image with ipykernel has. A Jupyter server that
knows the keys says what to run, renews the pod's life and is told what becomes of the kernel. A
pod of which no server has been heard for a while ends: what it holds is not lost to everybody.
"""

import os
import sys

# As ipykernel_launcher does: no file of the user's folder may stand for a module of Python's.
if __name__ == "__main__" and sys.path and os.path.abspath(sys.path[0]) == os.getcwd():
    del sys.path[0]

import hashlib
import hmac
import json
import shutil
import signal
import subprocess
import tempfile
import time

from gpu_share_kernel import farewell, over_ipv6, processes, readings
from gpu_share_kernel.parking import Parker
from gpu_share_kernel.zygote import Zygote, module_of, survives_fork

__all__ = ["Agent", "main"]

_READ_INTERVAL = 2.0
#: An owner that let this many of its own signs of life pass may be replaced by another server.
_MISSED = 3
#: Seconds from the beginning of the end: to SIGTERM, to SIGKILL, to leaving in any case.
_GRACE = (3.0, 5.0, 6.0)
#: Seconds within which a kernel that lacks a package ends.
_AT_ONCE = 10.0
#: Exit code of a kernel whose command is not there, as shells have it.
_NO_COMMAND = 127
_CONNECTION = "connection.json"
_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_MESSAGES_AT_ONCE = 64
_LONGEST_MESSAGE = 2**24


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
        self._key = settings["key"].encode()
        self._settings = settings
        self._owner = None
        self._peer = None
        self._patience = 0.0  # seconds of silence after which the owner may be replaced
        self._heard = time.monotonic()
        self._run = None
        self._pid = None
        self._process = None
        self._since = 0.0
        self._exit = None
        self._order = None  # to be started as soon as that is possible
        self._asked = None  # the order that the zygote has, and has not answered
        self._doomed = False  # what was asked for is to end as soon as it is there
        self._warm = None
        self._cold = ""
        self._lacking = False  # the kernel runs in an image in which we found no ipykernel
        self._ooms = 0
        self._env = {}
        self._use = readings.Use()
        self._last = None
        self._grace = float(settings.get("grace", 0.0))
        self._stays = None  # the pod is to end; until when its kernel waits for a server's word
        self._ending = None  # what is still to be done at the end: (when, what)
        self._quit = False
        self._bell = os.pipe()
        self._private = None
        self._farewell = None

    # -- the loop ------------------------------------------------------------------------------

    def run(self):
        """Serve until told to end, or until no server is left."""
        for end in self._bell:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._bell[1], warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        processes.inherit_orphans()
        import zmq

        self._zmq = zmq
        self._socket = self._listen()
        if self._settings["ip"] == "0.0.0.0":  # noqa: S104 - compared, not bound
            over_ipv6.serve(self._ports())
        # Its poller knows that a ZeroMQ descriptor tells of changes only.
        poller = zmq.Poller()
        for source in (self._socket, self._bell[0], self.zygote.sock.fileno()):
            poller.register(source, zmq.POLLIN)
        self._parker = Parker(
            zmq, self.folder, poller, lambda: self._signal(signal.SIGINT), self._used
        )
        next_reading = time.monotonic() + _READ_INTERVAL
        while True:
            due = min(next_reading, self._deadline(), self._parker.due)
            pause = max(0.0, due - time.monotonic())
            ready = dict(poller.poll(pause * 1000 + 1))
            if self._bell[0] in ready:
                self._signals(os.read(self._bell[0], 4096))
            if self.zygote.sock.fileno() in ready and not self._zygote_news():
                poller.unregister(self.zygote.sock.fileno())
            if self._socket in ready:
                self._messages()
            if self._parker.step():
                self._tell()
            now = time.monotonic()
            if now >= next_reading:
                next_reading = now + _READ_INTERVAL
                self._read()
            if self._ending is None and now > self._heard + self.watchdog:
                why = "no Jupyter server was heard for %d s" % self.watchdog
                self._say("%s; the pod ends" % why)
                farewell.leave_word(why)
                self._begin_end()
            if self._stays is not None and now >= self._stays_until():
                self._begin_end()
            while self._ending and now >= self._ending[0][0]:
                self._ending.pop(0)[1]()
            if self._ending is not None and not (self._ending and (self._pid or self._asked)):
                return self._end()

    @property
    def watchdog(self):
        """Seconds without a server after which the pod ends."""
        return self._parker.watchdog or float(self._settings["watchdog"])

    def _listen(self):
        zmq = self._zmq
        socket = zmq.Context().socket(zmq.ROUTER)
        socket.linger = 200
        socket.maxmsgsize = _LONGEST_MESSAGE
        socket.router_handover = 1
        if self._settings.get("curve_secretkey"):
            socket.curve_server = 1
            socket.curve_publickey = self._settings["curve_publickey"].encode()
            socket.curve_secretkey = self._settings["curve_secretkey"].encode()
        socket.bind("tcp://%s:%d" % (self._settings["ip"], self._settings["port"]))
        return socket

    def _ports(self):
        """Where the agent listens, and the kernel will."""
        with open(os.path.join(self.folder, "connection.json")) as file:
            wire = json.load(file)
        kernel = [port for name, port in sorted(wire.items()) if name.endswith("_port")]
        return [self._settings["port"], *kernel]

    def _deadline(self):
        if self._ending:
            return self._ending[0][0]
        watchdog = self._heard + self.watchdog
        return watchdog if self._stays is None else min(watchdog, self._stays_until())

    def _signals(self, numbers):
        if signal.SIGINT in numbers:
            self._begin_end()
        elif signal.SIGTERM in numbers:
            self._told_to_end()
        self._reap()

    # -- what a server says --------------------------------------------------------------------

    def _messages(self):
        for _ in range(_MESSAGES_AT_ONCE):
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
        stale = now > self._heard + self._patience
        known_gone = self._owner is not None and message.get("replaces") == self._owner
        if self._owner not in (None, instance) and not stale and not known_gone:
            self._send(peer, {"op": "refused"})
            return
        op, renewal = message["op"], float(message["renewal"])
        if instance != self._owner:
            self._parker.drop("Another server has taken the kernel over.")
        self._owner, self._peer, self._heard = instance, peer, now
        self._patience = min(_MISSED * renewal, self.watchdog)
        if op == "start":
            self._start(message)
        elif op == "signal":
            self._signal(message["signum"], alone=bool(message.get("alone")))
        elif op == "end":
            self._end_kernel()
        elif op == "park":
            self._parker.begin(message, self._unasked())
        elif op == "leave":
            self._begin_end()
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
                # Of the run that is told of, not of one that it replaces.
                "pid": self._pid if self._order is None else None,
                "exit": self._exit,
                "reading": self._last,
                "leaving": self._stays is not None,
                **self._parker.state,
            }
            self._send(self._peer, state)

    def _unasked(self):
        """Why nothing can be asked of the kernel, a sentence; empty: it can."""
        if self._ending is not None or self._stays is not None:
            return "The kernel's pod is about to end."
        if self._pid is None or self._order is not None:
            return "No kernel runs in the pod."
        return ""

    # -- the kernel ----------------------------------------------------------------------------

    def _start(self, message):
        if message["run"] == self._run:
            return  # said again because our answer was lost
        if self._ending is not None or self._stays is not None:
            return
        self._parker.drop("The kernel was started anew.")
        self._run, self._exit, self._last = message["run"], None, None
        self._order = message
        if self._pid is not None or self._asked is not None:
            self._say("the old kernel is ended first")
            self._kill()
        self._go()

    def _go(self):
        """Start what is wanted as soon as the old kernel is gone and it is known how."""
        order = self._order
        if order is None or self._pid is not None or self._asked is not None:
            return
        try:
            if self._warm is None and module_of(order["argv"]) is not None:
                return  # still importing
            self._order = None
            self._launch(order)
        except Exception as error:  # whatever an order holds, the pod lives on
            self._order = None
            self._ended(1, "it could not be started: %s" % error)

    def _launch(self, order):
        env = {k: v for k, v in os.environ.items() if k not in order.get("drop", ())}
        env.update(order["env"])
        if "PYTHONPATH" in order["env"]:
            # Ours stays: the soft caps come from there.
            own = order["env"]["PYTHONPATH"]
            env["PYTHONPATH"] = os.pathsep.join([_FOLDER, own]) if own else _FOLDER
        folder = env.get("JUPYTER_GPU_SHARE_SIMULATED_DIR")
        if folder:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        path = self._connection_file()
        argv = [part.replace("{connection_file}", path) for part in order["argv"]]
        module = module_of(argv)
        self._env, self._since = env, time.monotonic()
        self._ooms = readings.memory_events() or 0
        self._lacking = module is not None and bool(self._cold)
        if module is not None and self._warm and survives_fork(env):
            try:
                self.zygote.fork(module, env, order.get("cwd"))
            except OSError:
                self._say("the importing process is gone")
            else:
                self._asked = order
                return
        self._exec(argv, env, order.get("cwd"))

    def _connection_file(self):
        """A copy that the kernel may write to, and remove, as ipykernel does."""
        if self._private is None:
            self._private = tempfile.mkdtemp(prefix="gpu-share-")
        path = os.path.join(self._private, _CONNECTION)
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
        except FileNotFoundError as error:
            if error.filename != argv[0]:
                raise
            self._ended(_NO_COMMAND, "it could not be started: %s" % error)
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
                self._warm, self._cold = False, news["why"] if news["lacking"] else ""
                self._say(news["why"])
                self._go()
            elif news["what"] == "started":
                self._asked, self._pid = None, news["pid"]
                if self._doomed:
                    self._signal(signal.SIGKILL)
                self._tell()
            elif news["what"] == "failed":
                self._asked = None
                self._ended(1, news["why"])
            elif news["what"] == "ended" and news["pid"] == self._pid:
                self._ended(processes.code(news["status"]))
        if told is None:
            self._zygote_gone()
            return False
        return True

    def _zygote_gone(self):
        """Kernels are started anew from now on. One that runs goes on, and is ours to wait for."""
        self._warm = False
        self.zygote.pid = None
        self._reap()
        asked, self._asked = self._asked, None
        if asked is not None:
            self._sweep()  # it may have been started, and not been told of
            if self._doomed:
                self._ended(-signal.SIGKILL)
            elif self._order is None:
                self._order = asked
        elif self._pid is not None and not processes.exists(self._pid):
            self._ended(1, "it ended together with the process that waited for it")
        self._go()

    def _reap(self):
        """Wait for whatever has ended: this one inherits all orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                if self._process is not None:
                    self._process.returncode = processes.code(status)
                self._ended(processes.code(status))

    def _signal(self, number, alone=False):
        """To the kernel's whole session, which it leads, or to the kernel alone."""
        if self._pid is None:
            return
        if alone:
            processes.kill(self._pid, number)
            return
        try:
            os.killpg(self._pid, number)
        except ProcessLookupError:
            # Forked a moment ago, it does not lead one yet; or it is gone.
            processes.kill(self._pid, number)

    def _kill(self):
        self._doomed = self._asked is not None
        # That we end it is no want of memory, whatever was seen before.
        self._ooms = readings.memory_events() or 0
        self._signal(signal.SIGKILL)

    def _end_kernel(self):
        """Kill what runs, and start nothing any more that was to be started."""
        waiting, self._order = self._order, None
        self._kill()
        if waiting is not None and self._pid is None and self._asked is None:
            self._ended(-signal.SIGKILL)

    def _ended(self, code, why=""):
        self._pid, self._process, self._doomed = None, None, False
        if not why and self._ending is not None and not self._quit:
            why = "terminated"  # what for is known to the cluster only
        if not why:
            ooms = readings.memory_events()
            if code == -signal.SIGKILL and ooms is not None and ooms > self._ooms:
                why = "oom"
            elif code == 1 and self._lacking and time.monotonic() < self._since + _AT_ONCE:
                why = self._cold
        self._sweep()
        self._parker.drop("The kernel has ended.")
        if self._order is None:
            self._exit = {"code": code, "why": why}
            self._last = None
            self._tell()
        else:
            self._go()

    def _family(self):
        """The kernel and all that it has started, wherever that has hidden itself."""
        return readings.tree(os.getpid()) - {os.getpid(), self.zygote.pid}

    def _sweep(self):
        """End what the kernel left running, and see it gone: till then it uses the GPU."""
        left = processes.sweep(self._family, self._reap)
        if left:
            self._say("killed, and still there: process %s" % ", ".join(map(str, sorted(left))))

    # -- readings ------------------------------------------------------------------------------

    def _read(self):
        if self._pid is None or self._peer is None:
            return
        pids = self._family()
        used, utilization = self._gpu(pids)
        reading = {
            "used_bytes": used,
            "utilization": utilization,
            "memory_bytes": readings.resident_bytes(pids) // 2**20 * 2**20,
        }
        if reading != self._last:
            self._last = reading
            self._tell()

    def _gpu(self, pids):
        return self._use.read(pids, self._env.get("JUPYTER_GPU_SHARE_SIMULATED_DIR"))

    def _used(self):
        """Bytes of GPUs that the kernel is seen to use now; None: not known."""
        return self._gpu(self._family())[0]

    # -- the end -------------------------------------------------------------------------------

    def _told_to_end(self):
        """Somebody ends the pod. Where a server is there, it saves the variables first.

        It says ``leave`` or ``quit`` when it is done with that, or cannot do it.
        """
        if self._ending is not None or self._stays is not None:
            return
        self._parker.drop("The kernel's pod was told to end.")
        self._stays = time.monotonic() + self._grace - _GRACE[-1]
        if time.monotonic() >= self._stays_until():
            self._begin_end()
        else:
            self._tell()

    def _stays_until(self):
        """A kernel that has ended waits for nobody, nor does one whose server is silent."""
        if self._pid is None or self._stays is None:
            return 0.0
        return min(self._stays, self._heard + self._patience)

    def _begin_end(self, now=False):
        """Ask the kernel to end, as a Jupyter server does, and see to it that it does."""
        self._order = self._stays = None
        self._parker.drop("The kernel's pod ends.")
        if now:
            self._quit = True
            self._kill()
            self._ending = [(time.monotonic() + 1.0, _nothing)]
        elif self._ending is None:
            term, kill, leave = (time.monotonic() + after for after in _GRACE)
            self._ending = [
                (term, lambda: self._signal(signal.SIGTERM)),
                (kill, self._kill),
                (leave, _nothing),
            ]
            if self._pid is not None:
                # A running cell ends first, else the kernel does not get to hear it.
                self._signal(signal.SIGINT)
                try:
                    self._farewell = farewell.ask(self._zmq, self.folder)
                except (OSError, ValueError, KeyError, self._zmq.ZMQError) as error:
                    self._say("the kernel cannot be asked to end: %r" % error)

    def _end(self):
        # It would see by itself that we are gone, but only when it has imported everything.
        self.zygote.pid = None
        self._sweep()
        self._tell()
        self._socket.close()
        if self._farewell is not None:
            self._farewell.close(0)
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)
        code = self._exit["code"] if self._exit and not self._quit else 0
        return code if 0 <= code < 256 else 128 - code

    def _say(self, text):
        sys.stderr.write("gpu-share agent: %s\n" % text)
        sys.stderr.flush()


def _nothing():
    """Time is up."""


if __name__ == "__main__":
    sys.exit(main())
