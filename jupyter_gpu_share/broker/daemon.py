"""The program that owns the shares of all users of a machine, on a socket of the machine."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from traitlets import Bool, Integer, Unicode, default

from .._threads import in_thread, stopped, within
from ..engines._presence import SIMULATE
from ..engines.local._gpu import Gpu
from ..engines.local._machine import Machine
from ..engines.local._outsiders import Outsider
from ..errors import EngineError, GpuShareError
from ..idle import IdlePolicy
from . import settings
from ._ends import Ends
from .api import MAX_BODY, Desk, application
from .client import DEFAULT_SOCKET
from .connections import BoundedServer, more_descriptors
from .events import Events
from .identity import Accounts
from .metrics_port import MetricsPort, listen_locally, read_token
from .store import Store
from .unshared import LEAST_GRACE, Unshared

__all__ = ["LocalBroker"]

_log = logging.getLogger(__name__)

#: Seconds between two looks for the dead beside what the system tells: processes that a kernel
#: left behind end without a word.
_SWEEP_INTERVAL = 5.0
#: Seconds that a client has for its next request, and for the body of one.
_IDLE_TIMEOUT, _BODY_TIMEOUT = 120.0, 10.0
_MAX_HEADERS = 16 * 1024
#: The first descriptor that systemd hands on.
_FIRST_HANDED = 3


class LocalBroker(settings.Broker):
    """Owns the shares of all users of this machine."""

    socket = Unicode(
        DEFAULT_SOCKET,
        config=True,
        help="""
        Path of the socket on which users' servers ask for shares. Everybody may connect; who they
        are is told by the system. Users' servers look at the default path by themselves; for
        another one they need the environment variable ``JUPYTER_GPU_SHARE_BROKER``.

        ::

            c.Broker.socket = "/run/jupyter-gpu-share/broker.sock"
        """,
    )
    administrators = Unicode(
        "",
        config=True,
        help="""
        Name of a group whose members may see all shares, with their users, and end them. Default:
        none; root always may.

        ::

            c.Broker.administrators = "gpu-admins"
        """,
    )
    simulate = Unicode(
        config=True,
        help="""
        GPUs to simulate instead of using real ones, as number, model and memory; users' servers
        then simulate them too. Default: the environment variable
        ``JUPYTER_GPU_SHARE_SIMULATE``, else empty (real GPUs).

        ::

            c.Broker.simulate = "2xA100-80GB"
        """,
    )
    connections_per_user = Integer(
        256,
        min=2,
        config=True,
        help="""
        The most connections of one user at once; a server needs two. Default 256.

        ::

            c.Broker.connections_per_user = 64
        """,
    )

    charge_unshared = Bool(
        False,
        config=True,
        help="""
        Charge what processes use of GPUs without a share to the account of their users: it counts
        for limits of ``gpu_hours`` and for who is next. Default False.

        ::

            c.Broker.charge_unshared = True
        """,
    )
    end_unshared_after = settings.Seconds(
        None,
        allow_none=True,
        min=LEAST_GRACE,
        config=True,
        help="""
        Seconds after which processes that use a GPU without a share are ended, which the log
        announces. Root's are left alone, and so is what draws a picture. Default: None, never.

        ::

            c.Broker.end_unshared_after = 300
        """,
    )

    metrics_port = Integer(
        0,
        min=0,
        max=65535,
        config=True,
        help="""
        Port of 127.0.0.1 on which Prometheus gets metrics, under ``/metrics``. Default 0: none.

        ::

            c.Broker.metrics_port = 9500
        """,
    )

    @default("simulate")
    def _simulate_default(self) -> str:
        return os.environ.get(SIMULATE, "")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.events = Events()
        self.accounts = Accounts(self.administrators)
        self.store = Store(
            Path(self.folder),
            self.events,
            claims_per_user=self.claims_per_user,
            limits=self.read_limits(),
            accounts=self.accounts,
            policy=IdlePolicy(parent=self),
            patience=timedelta(seconds=self.patience),
            changed=self._watch,
        )
        self._machine = Machine(
            self.store.at_ledger,
            self._room,
            lambda: self.simulate,
            self._simulated,
            self._see_unshared,
        )
        grace = self.end_unshared_after
        self.unshared = Unshared(self.accounts, None if grace is None else timedelta(seconds=grace))
        self._ends = Ends(self._look)
        self._looking = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._server: BoundedServer | None = None
        self._metrics: MetricsPort | None = None

    def _simulated(self) -> Path:
        return Path(self.folder) / "simulated"

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises
        ------
        GpuShareError: it cannot begin; says why and what to do.
        """
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, over.set)
        try:
            await self.start()
            await over.wait()
        finally:
            await self.close()

    async def start(self) -> None:
        """Begin to serve."""
        more_descriptors()
        token = read_token(self.metrics_token_file)
        if self.metrics_by_user and self.metrics_port and not token:
            raise EngineError(
                "With c.Broker.metrics_by_user everybody on this machine could read on the port "
                "what others use: name a c.Broker.metrics_token_file, or leave one of them out."
            )
        listening = _handed() or _listen(Path(self.socket))
        try:
            await self.store.open()
            # Before anybody is let in: claims on GPUs that are not there would be taken for lost.
            found = await self._machine.gpus()
            await self.store.sweep()
            await self.store.grant()
        except BaseException:
            listening.close()
            raise
        desk = Desk(
            self.store,
            self.events,
            self.accounts,
            found.simulation,
            self.unshared.rows,
            self.metrics_by_user,
        )
        server = BoundedServer(
            application(desk),
            max_body_size=MAX_BODY,
            max_header_size=_MAX_HEADERS,
            max_buffer_size=MAX_BODY + _MAX_HEADERS,
            idle_connection_timeout=_IDLE_TIMEOUT,
            body_timeout=_BODY_TIMEOUT,
        )
        server.bounds = (self.connections_per_user, max(self.connections_per_user, 4096))
        at = listening.getsockname()
        server.add_socket(listening)
        self._server = server
        _log.info("The broker listens on %s", at)
        if Path(at) != Path(self.socket):
            _log.warning(
                "c.Broker.socket names %s, but systemd has made %s: name the other one as "
                "ListenStream in jupyter-gpu-share.socket",
                self.socket,
                at,
            )
        if self.metrics_port:
            self._metrics = MetricsPort(listen_locally(self.metrics_port), desk.metrics, token)
        self._tasks += [
            asyncio.create_task(self._follow(), name="look at the GPUs"),
            asyncio.create_task(self._sweep(desk), name="look for the dead"),
        ]
        self._watch()

    async def close(self) -> None:
        """Serve nobody any more. The socket's file stays, so that users' servers know of a broker
        that is away and wait for it, instead of sharing out its GPUs among themselves."""
        if self._server is not None:
            self._server.stop()
            await self._server.close_all_connections()
        if self._metrics is not None:
            await self._metrics.close()
        await stopped(*self._tasks)
        self._ends.close()
        await self.store.close()

    def _watch(self) -> None:
        self._ends.watch(self.store.processes)

    def _look(self) -> None:
        self._looking.set()

    async def _see_unshared(self, gpus: Sequence[Gpu], outsiders: Sequence[Outsider]) -> None:
        await in_thread(self.unshared.see, outsiders)
        if self.charge_unshared:
            await self.store.charge(self.unshared.charges(gpus))

    def _room(self) -> None:
        """What others left of a GPU, or a new GPU, is room for who waits."""
        self._looking.set()

    async def _follow(self) -> None:
        while True:
            try:
                await self._machine.follow()
            except Exception:  # whatever it is: without this no GPU that is lost is missed
                _log.exception("The GPUs could not be looked at; it is tried again")

    async def _sweep(self, desk: Desk) -> None:
        while True:
            with suppress(asyncio.TimeoutError):
                await within(_SWEEP_INTERVAL, self._looking.wait())
            told = self._looking.is_set()
            self._looking.clear()
            try:
                await self.store.sweep()
                if told:
                    await self.store.grant()
                await desk.reclaims.take(self._machine.certain)
            except GpuShareError as error:
                _log.error("%s", error)
            except Exception:  # whatever it is: without this nothing that the dead held is free
                _log.exception("What the dead held could not be looked for; it is tried again")


def _listen(path: Path) -> socket.socket:
    """A socket that everybody may connect to, in place of one that nobody listens on any more."""
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
            path.parent.chmod(0o755)  # whatever the umask: everybody connects
        if _is_socket(path):
            if _answers(path):
                raise EngineError(f"A broker runs on {path} already.")
            path.unlink()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(path))
            path.chmod(0o666)
            listening.listen(4096)
            listening.setblocking(False)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        why = "there is a file of this name" if error.errno == errno.EADDRINUSE else error.strerror
        raise EngineError(
            f"The socket {path} cannot be made ({why or error}); start the broker as root, or name "
            "another path in c.Broker.socket."
        ) from error
    return listening


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(2.0)
        try:
            trial.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # its queue is full: it is there
            return True
        return True


def _handed() -> socket.socket | None:
    """The socket of a unit of systemd, where this was started for one."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    handed = socket.socket(fileno=_FIRST_HANDED)
    handed.setblocking(False)
    os.set_inheritable(_FIRST_HANDED, False)
    return handed
