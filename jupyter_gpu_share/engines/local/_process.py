"""A kernel's process on this machine: start it, notice its end, end it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.launcher import launch_kernel
from jupyter_core.paths import secure_write

from ..._threads import in_thread
from ...errors import CommandNotFoundError, KernelStartError
from ...sentences import paragraph, say
from ..base import Connection, Exit

__all__ = ["KernelProcess", "choose_transport", "make_connection"]

_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
#: Where the system has no pidfd, seconds between two looks.
_LOOK_INTERVAL = 0.05
#: A killed process that is still there after this many seconds sits in the kernel of the system.
_KILL_PATIENCE = 5.0
_IPC_PATH_LIMIT = 100
#: Programs that see this machine's files as we do. What a container or another wrapper starts may
#: not, and a socket in a folder is then not there.
_INTERPRETER = re.compile(r"(i?python|pypy)[0-9.]*(t|d)?(\.exe)?")


class KernelProcess:
    """A started kernel. All methods are for the loop on which :meth:`start` ran."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, connection: Connection):
        self.pid = process.pid
        self.connection = connection
        self._process = process
        self._folder = folder
        self._ended = asyncio.ensure_future(self._wait())

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        env: Mapping[str, str],
        options: Mapping[str, Any],
        *,
        connection: Connection,
        folder: Path,
    ) -> KernelProcess:
        """Write the connection file into ``folder``, which the process owns, and start the command.

        Raises
        ------
        KernelStartError: the command cannot be run. The folder is removed.
        """
        try:
            file = folder / "connection.json"
            await in_thread(_write_connection_file, file, connection)
            command = [part.replace("{connection_file}", str(file)) for part in argv]
            process = await _shielded_spawn(command, env, options)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            name = Path(argv[0]).name if argv else "(empty)"
            kind = (
                CommandNotFoundError if isinstance(error, FileNotFoundError) else KernelStartError
            )
            cause = error.strerror or error
            raise kind(say("command-not-run", command=repr(name), cause=cause)) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(process, folder, connection)

    async def wait(self) -> Exit:
        """Return when the process has ended."""
        return _explain(await asyncio.shield(self._ended))

    def signal(self, signum: int, *, alone: bool = False) -> None:
        """Send a signal to the process group, or to the process alone where it left its group."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if alone:
                os.kill(self.pid, signum)
                return
            try:
                os.killpg(os.getpgid(self.pid), signum)
            except PermissionError:
                os.kill(self.pid, signum)

    async def end(self) -> None:
        """Kill the process if it runs, and remove its files. Idempotent."""
        self.signal(signal.SIGKILL)
        await asyncio.wait({self._ended}, timeout=_KILL_PATIENCE)
        await in_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _wait(self) -> int:
        if hasattr(os, "pidfd_open"):
            await _wait_on_pidfd(self.pid)
        while (code := self._process.poll()) is None:  # noqa: ASYNC110 - nobody would set an event
            await asyncio.sleep(_LOOK_INTERVAL)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        return code


def choose_transport(argv: Sequence[str], folder: Path) -> str:
    """``ipc`` for a kernel that is known to support it in ``folder``, else ``tcp``."""
    interpreter = bool(argv) and _INTERPRETER.fullmatch(Path(argv[0]).name) is not None
    known = interpreter and any("ipykernel" in part for part in argv[1:])
    return "ipc" if known and len(_sockets(folder)) <= _IPC_PATH_LIMIT else "tcp"


def _sockets(folder: Path) -> str:
    """The path of a kernel's sockets, but for the number of the channel."""
    return str(folder / "s")


def make_connection(
    folder: Path, transport: str, *, key: bytes, signature_scheme: str, encrypt: bool
) -> Connection:
    """Where a kernel shall listen: sockets in ``folder`` (ipc), or free ports of loopback (tcp).

    Raises
    ------
    KernelStartError: the path of the folder is too long for sockets.
    """
    if transport == "ipc":
        path = _sockets(folder)
        if len(path) > _IPC_PATH_LIMIT:
            raise KernelStartError(
                f"The path of the temporary folder is too long for sockets ({len(path)} "
                f"characters, {_IPC_PATH_LIMIT} are possible); set TMPDIR to a shorter one, or "
                'set c.LocalEngine.transport to "auto" or "tcp".'
            )
        ports = {name: number for number, name in enumerate(_CHANNELS, start=1)}
        return Connection("ipc", path, ports, key, signature_scheme)
    public, secret = zmq.curve_keypair() if encrypt else (None, None)
    return Connection(
        "tcp",
        "127.0.0.1",
        dict(zip(_CHANNELS, _free_ports(len(_CHANNELS)), strict=True)),
        key,
        signature_scheme,
        public.decode() if public else None,
        secret.decode() if secret else None,
    )


def _free_ports(number: int) -> list[int]:
    """Ports free at this moment. The kernel binds them a moment later; all are held until then."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _write_connection_file(file: Path, connection: Connection) -> None:
    content: dict[str, Any] = {
        "transport": connection.transport,
        "ip": connection.ip,
        "key": connection.key.decode(),
        "signature_scheme": connection.signature_scheme,
        **{f"{name}_port": number for name, number in connection.ports.items()},
    }
    if connection.curve_publickey:
        content["curve_publickey"] = connection.curve_publickey
        content["curve_secretkey"] = connection.curve_secretkey
    with secure_write(str(file)) as stream:
        json.dump(content, stream)


async def _shielded_spawn(
    command: list[str], env: Mapping[str, str], options: Mapping[str, Any]
) -> subprocess.Popen[bytes]:
    """Start the command in a thread; if cancelled meanwhile, the process does not outlive it."""
    spawning = asyncio.ensure_future(in_thread(launch_kernel, command, env=dict(env), **options))
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        spawning.add_done_callback(_end_unwanted)
        await asyncio.wait({spawning})
        raise


def _end_unwanted(spawning: asyncio.Future[subprocess.Popen[bytes]]) -> None:
    if not spawning.cancelled() and spawning.exception() is None:
        process = spawning.result()
        process.kill()
        process.wait()


async def _wait_on_pidfd(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # ended already, or too many open files: fall back to looking
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _explain(code: int) -> Exit:
    if code >= 0:
        return Exit(code, say("exit-code", code=code))
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = say("memory-short") if code == -signal.SIGKILL else ""
    return Exit(code, paragraph(say("exit-signal", name=name), hint))
