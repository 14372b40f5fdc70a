"""A machine with a broker and users of its own, which ends with the test.

All of it runs in mounts of its own: users and groups of the system are those of the machine and the
test's, and ``/run`` is empty, so that the broker has its own place there. What users' programs need
is readable to them, which it is not everywhere: root's Python may be in root's home.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from installed import ROOT
from mounts import needs_mounts
from servers import TOKEN, Server, start, until
from waiting import PATIENCE

from jupyter_gpu_share.broker.client import DEFAULT_SOCKET, BrokerAway, BrokerClient

ANN, BOB, CAT = "gs-ann", "gs-bob", "gs-cat"
UIDS = {ANN: 65531, BOB: 65532, CAT: 65533}
_GROUP = 65530
#: The command of this package, whatever is installed.
COMMAND = (
    sys.executable,
    "-c",
    "import sys; from jupyter_gpu_share.cli import main; sys.exit(main(sys.argv[1:]))",
)

_MOUNTS = """
import json, subprocess, sys
from pathlib import Path

files, needed = json.loads(sys.argv[1])

def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)

def closed(path):
    "The outermost folder above it that not everybody may enter."
    for parent in reversed(path.parents):
        if not parent.stat().st_mode & 0o001:
            return parent

for path, source in files.items():
    mount("--bind", source, path)
mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
reached = {}
for number, path in enumerate(map(Path, needed)):
    if closed(path):
        kept = Path(f"/run/reached/{number}")
        kept.mkdir(parents=True)
        mount("--bind", path, kept)
        reached[path] = closed(path), kept
for parent in {parent for parent, _ in reached.values()}:
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", parent)
for path, (_, kept) in reached.items():
    path.mkdir(parents=True, exist_ok=True)
    mount("--bind", kept, path)
print("ready", flush=True)
sys.stdin.read()
"""


class Machine:
    """Programs in mounts of their own, a broker at its usual place among them."""

    def __init__(self, folder: Path, namespace: int) -> None:
        self.folder = folder
        self._namespace = namespace
        self.socket = DEFAULT_SOCKET  #: the broker's, as its configuration names it
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def inside(self) -> tuple[str, ...]:
        """A command that runs the one after it in the machine's mounts."""
        return "nsenter", f"--mount=/proc/{self._namespace}/ns/mnt", f"--wd={self.folder}", "--"

    def start_broker(
        self,
        *lines: str,
        simulate: str = "1xA100-80GB",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the broker as its unit does, and wait until it answers.

        Parameters
        ----------
        lines: of its configuration.
        simulate: describes its GPUs; empty for those of the driver.
        """
        configuration = self.folder / "broker_config.py"
        state = str(self.folder / "state")
        configuration.write_text("\n".join([f"c.Broker.folder = {state!r}", *lines]))
        configuration.chmod(0o644)
        more = {"JUPYTER_GPU_SHARE_SIMULATE": simulate} if simulate else {}
        command = [*COMMAND, "broker", "--config", str(configuration)]
        self._start("broker", command, {**more, **(environment or {})})
        until(lambda: self.reachable, f"the broker answers; see {self.folder}")

    def stop_broker(self) -> None:
        """End the broker in good order; what runs goes on."""
        self._processes["broker"].terminate()
        self._processes.pop("broker").wait(PATIENCE)

    def wait(self) -> None:
        """Wait for its programs, which have been ended."""
        for process in self._processes.values():
            process.wait(PATIENCE)

    def _start(self, name: str, command: list[str], more: Mapping[str, str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*self.inside, *command],
                cwd=self.folder,
                env={**plain_environment(), **more},
                stdout=log,
                stderr=log,
            )

    def logs(self) -> str:
        """What its programs have told."""
        return "\n".join(each.read_text() for each in sorted(self.folder.glob("*.log")))

    def ask_broker(self, method: str, path: str, body: Any = None) -> Any:
        """The broker's answer to root."""
        socket = Path(f"/proc/{self._namespace}/root{self.socket}")
        with closing(BrokerClient(socket)) as client:
            return client.ask(method, path, body)

    def claims(self) -> dict[str, tuple[str, str]]:
        """All kernels' users and states, as the broker sees them."""
        rows = self.ask_broker("GET", "/v1/admin/shares")
        return {row["kernel_id"]: (row["info"]["user"], row["state"]) for row in rows}

    @property
    def reachable(self) -> bool:
        """Whether the broker answers."""
        try:
            return bool(self.ask_broker("GET", "/v1/machine"))
        except BrokerAway:
            return False


class Person:
    """A user of a machine.

    Parameters
    ----------
    name: of the user.
    more: of their environment.
    """

    def __init__(self, machine: Machine, name: str, more: Mapping[str, str] | None = None) -> None:
        self.machine, self.name, self._more = machine, name, dict(more or {})
        self.home, self.uid = machine.folder / "home" / name, UIDS[name]

    def make(self, name: str) -> None:
        """Make a folder in their home."""
        folder = self.home / name
        folder.mkdir()
        os.chown(folder, UIDS[self.name], _GROUP)

    def write(self, name: str, text: str) -> Path:
        """Write a file in their home."""
        path = self.home / name
        for parent in reversed([each for each in path.parents if not each.exists()]):
            self.make(str(parent.relative_to(self.home)))
        path.write_text(text)
        os.chown(path, UIDS[self.name], _GROUP)
        return path

    def environment(self, **own: str) -> dict[str, str]:
        """A user's, as docs/shared-machine.md sets it up."""
        plain = plain_environment()
        for name in ("CUDA_VISIBLE_DEVICES", "TMPDIR", "IPYTHONDIR"):
            plain.pop(name, None)
        given = {
            "HOME": str(self.home),
            "USER": self.name,
            "LOGNAME": self.name,
            "JUPYTER_DEFAULT_PROVISIONER_NAME": "gpu-share-provisioner",
        }
        return {**plain, **given, **self._more, **own}

    def command(self, *words: str | Path) -> list[str]:
        """A command of the user's, in their home."""
        inside = list(self.machine.inside)
        inside[inside.index(f"--wd={self.machine.folder}")] = f"--wd={self.home}"
        return [*inside, *as_user(self.name), *map(str, words)]

    def start(self, *words: str | Path, typed: str = "", **own: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.command(*words),
            env=self.environment(**own),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(typed)
        process.stdin.flush()
        return process

    def server(self, name: str, **own: str) -> Server:
        """A Jupyter server of the user's, which writes into a folder of that name."""
        folder = self.home / name
        for each in ("", "/runtime", "/work"):
            self.make(name + each)
        own = {**own, "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
        options = ("--no-browser", "--ServerApp.port=0", "--ServerApp.ip=127.0.0.1")
        command = self.command(sys.executable, "-m", "jupyter_server", *options)
        env = self.environment(JUPYTER_TOKEN=TOKEN, **own)
        return start(command, folder, env)


def plain_environment() -> dict[str, str]:
    """That of these tests, without what it says of Jupyter."""
    path = os.pathsep.join([str(Path(sys.prefix) / "bin"), "/usr/bin", "/bin"])
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY"))}
    return {**keep, "PATH": path}


def as_user(name: str) -> tuple[str, ...]:
    """A command that runs the one after it as a user of the machine, and ends it with the test."""
    ids = f"--reuid={UIDS[name]}", f"--regid={_GROUP}", "--clear-groups"
    return "setpriv", *ids, "--pdeathsig=KILL", "--"


@contextmanager
def running_machine(*needed: Path) -> Iterator[Machine]:
    """A machine with users, and no broker yet; for ``needed`` see :func:`mounts_of_users`."""
    with mounts_of_users("gpu-share-machine-", *needed) as (folder, holder), ExitStack() as stack:
        machine = Machine(folder, holder)
        stack.callback(machine.wait)
        stack.callback(end_all_in, holder)
        yield machine


@contextmanager
def mounts_of_users(prefix: str, *needed: Path) -> Iterator[tuple[Path, int]]:
    """A folder that everybody may enter, and the number of a process whose mounts are the test's.

    Parameters
    ----------
    needed: what users' programs need beside this project and its Python.
    """
    needs_mounts()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        yield folder, stack.enter_context(_own_mounts(folder, needed))


@contextmanager
def _own_mounts(folder: Path, more: Sequence[Path]) -> Iterator[int]:
    """A process whose mounts are the test's, by its number."""
    lines = [f"{name}:x:{uid}:{_GROUP}::{folder}/home/{name}:/bin/sh" for name, uid in UIDS.items()]
    files = {}
    for name, added in (("passwd", lines), ("group", [f"gs-users:x:{_GROUP}:"])):
        own = folder / name
        own.write_text("\n".join([Path("/etc", name).read_text().rstrip(), *added, ""]))
        own.chmod(0o644)
        files[f"/etc/{name}"] = str(own)
    for name, uid in UIDS.items():
        home = folder / "home" / name
        home.mkdir(parents=True, mode=0o700)
        os.chown(home, uid, _GROUP)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    needed = {Path(each).resolve() for each in (sys.base_prefix, ROOT, *filter(None, paths))}
    needed |= {Path(sys.prefix), *more}
    told = json.dumps([files, sorted(map(str, needed))])
    with subprocess.Popen(
        ["unshare", "--mount", sys.executable, "-c", _MOUNTS, told],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        assert ready and process.stdout.readline() == "ready\n", "the mounts are not made"
        yield process.pid
        process.kill()


def end_all_in(holder: int) -> None:
    """End all programs in the holder's mounts but itself, whoever has started them."""
    mounts = Path(f"/proc/{holder}/ns/mnt").readlink()

    def left() -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (entry / "ns/mnt").readlink() == mounts and int(entry.name) != holder:
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    found += [int(entry.name)] if state != "Z" else []
        return found

    def gone() -> bool:
        for pid in left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left()

    until(gone, "all programs of the machine have ended")
