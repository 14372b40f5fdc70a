"""The kernel provisioner: how Jupyter starts, watches and ends kernels on a share of a GPU.

It adapts the hooks of jupyter_client to the controller of a kernel, which runs on the loop of the
:class:`~jupyter_gpu_share.runtime.Runtime`. Hooks are called on whatever loop the client runs.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import zmq
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.localinterfaces import is_local_ip
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from tornado import web
from traitlets import Float, Unicode

from ._configuration import completed
from ._threads import in_thread
from .errors import GpuShareError, KernelStartError, NoGpuError, SizeError
from .sentences import say
from .size import SIZE_VARIABLE, Request, Size, size_in_kernelspec, size_in_notebook

if TYPE_CHECKING:
    from .engines.base import Adoptable, Connection
    from .kernels.kernel import Kernel
    from .relay import Relay
    from .runtime import Runtime

__all__ = ["GpuShareProvisioner"]

_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
_CONNECTION_FILE = "{connection_file}"


class GpuShareProvisioner(KernelProvisionerBase):
    """Starts a kernel on a share of a GPU, behind a relay that clients talk to."""

    size = Unicode(
        "",
        config=True,
        help="""
        Size of the share, such as ``1/4``, ``10GiB``, ``mig-1g.10gb`` or ``0``. Usually set in a
        kernelspec (``jupyter gpu-share install`` writes them). Default: what ``SizePolicy`` says.

        ::

            "metadata": {"kernel_provisioner": {
                "provisioner_name": "gpu-share-provisioner", "config": {"size": "1/4"}}}
        """,
    )
    engine = Unicode(
        "",
        config=True,
        help="""
        Where kernels run: ``local``, this machine, or ``kubernetes``, pods of a cluster
        (``c.KubernetesEngine`` says how). Default: the engine of the whole process, where that
        has one configured, else ``local``.

        ::

            c.GpuShareProvisioner.engine = "kubernetes"
        """,
    )
    queue_patience = Float(
        10.0,
        min=0.0,
        config=True,
        help="""
        Seconds that starting a kernel may hold up the client. A kernel that is still queued then
        counts as started; what is sent to it waits until it has its share. Default 10.

        ::

            c.GpuShareProvisioner.queue_patience = 30
        """,
    )
    start_timeout = Float(
        60.0,
        min=1.0,
        config=True,
        help="""
        Seconds that a kernel has to answer once it holds its share. Default 60.

        ::

            c.GpuShareProvisioner.start_timeout = 120
        """,
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # The base class has one mutable dict for all instances.
        self.connection_info = {}
        self._runtime: Runtime | None = None
        self._kernel: Kernel | None = None
        self._wanted: Size | None = None
        #: A kernel of an earlier process that this start takes over.
        self._adopted: Adoptable | None = None
        self._has_process = False
        self._restart = False
        self._cwd: Path | None = None
        self._notebook: Path | None = None
        #: The path under which the size of this start was chosen earlier; None: it was not.
        self._chosen: str | None = None

    @property
    def has_process(self) -> bool:
        """True from :meth:`launch_kernel` to :meth:`wait`. Asserted by the kernel manager."""
        return self._has_process

    # -- start -------------------------------------------------------------------------------

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Decide the size, open the relay and build the command.

        Called by ``KernelManager.pre_start_kernel`` before every start and restart. The relay of
        a restarted kernel stays, so that its clients stay connected.

        Raises
        ------
        SizeError: the size cannot be understood or is not allowed here.
        """
        try:
            kwargs.pop("transport_encryption", None)
            extra = kwargs.pop("extra_arguments", [])
            from .runtime import Runtime

            self._runtime = Runtime.instance(lambda: completed(self.config))
            if self._runtime.stopping:
                raise KernelStartError(say("server-stops"))
            env = kwargs.get("env") or os.environ
            requested = self._runtime.requests.take(self.kernel_id) if self.kernel_id else None
            # A kernel that is started apart from its session is told of it by the request.
            session = env.get("JPY_SESSION_NAME") or (requested and requested.path) or ""
            if session or self._kernel is None:
                self._notebook = self._locate(session)
            self._adopted = self._runtime.adopted.pop(self.kernel_id or "", None)
            self._wanted = await self._decide_size(env, requested)
            await self._runtime.admit(self.kernel_id, self._wanted)
            if self._kernel is None:
                await self._open_relay()
            else:
                # A kernel manager that restarts over ipc has removed the files of the sockets.
                await asyncio.wrap_future(self._kernel.relay.listen_again())
            cmd = self._command(extra, session=env.get("JPY_SESSION_NAME") or "")
            return await super().pre_launch(cmd=cmd, **kwargs)
        except BaseException as error:
            await self._fail(error)
            raise

    async def _decide_size(self, env: Any, requested: Request | None) -> Size:
        """First found wins; every one is checked by the same policy."""
        assert self._runtime is not None
        policy = self._runtime.policy
        self._chosen = None
        if self._kernel is not None and self._kernel.next_size is not None:
            changed, self._kernel.next_size = self._kernel.next_size, None
            return changed
        if self._adopted is not None:
            return self._adopted.size  # it holds that already
        if requested is not None:
            return policy.check(str(requested.size))
        if self._kernel is not None and self._kernel.request is not None:
            return self._kernel.request.size  # a restart keeps it
        # Who picks a kernelspec that names a size has picked that one: what was chosen earlier must
        # not make its name untrue.
        named = size_in_kernelspec(self.kernel_spec.metadata, self.kernel_spec.env)
        if not named and self._shown_path and (chosen := await self._choice(self._shown_path)):
            return policy.check(chosen)
        asked = env.get(SIZE_VARIABLE) or self.kernel_spec.env.get(SIZE_VARIABLE)
        for text in (asked, self.size):
            if text:
                return policy.check(text)
        if self._notebook is not None:
            hint = await asyncio.to_thread(size_in_notebook, self._notebook)
            if hint:
                return policy.check(hint)
            if own := await self._choice(""):
                return policy.check(own)
        # A server's kernel without a notebook is a console's or a program's: somebody is there.
        return policy.default_size(headless=self._notebook is None and self._root is None)

    async def _choice(self, path: str) -> str | None:
        """What a user chose for a path on a page of its server."""
        if self._root is None or self._runtime is None:
            return None
        found = await in_thread(self._runtime.choices.get, str(self._root), path)
        self._chosen = path if found else None
        return found

    async def _forget_choice(self, path: str) -> None:
        """A choice that cannot be had is not tried again at each start."""
        self._chosen = None
        if self._root is not None and self._runtime is not None:
            await in_thread(self._runtime.choices.set, str(self._root), path, None)

    @property
    def _root(self) -> Path | None:
        """The folder that a Jupyter server shows, where there is one."""
        root = getattr(getattr(self.parent, "parent", None), "root_dir", None)
        return Path(root) if root else None

    def _locate(self, name: str) -> Path | None:
        """The notebook's file. A server gives it as a whole path, or one within its folder."""
        if not name:
            return None
        return self._root / name if self._root else Path(name)

    @property
    def _shown_path(self) -> str | None:
        """The notebook as users know it: within the folder that the server shows."""
        if self._notebook is None:
            return None
        if self._root and self._notebook.is_relative_to(self._root):
            return self._notebook.relative_to(self._root).as_posix()
        return str(self._notebook)

    async def _open_relay(self) -> None:
        assert self._runtime is not None
        runtime = self._runtime
        from .relay import Relay

        manager = self.parent
        key, scheme = b"", "hmac-sha256"
        transport, ip, ports = "tcp", "127.0.0.1", dict.fromkeys(_CHANNELS, 0)
        curve: tuple[str | None, str | None] = None, None
        if manager is not None:
            if self._adopted is not None and not self._adopted.saved:
                # The kernel goes on signing with the key that it was started with.
                manager.session.key = self._adopted.key
                manager.session.signature_scheme = self._adopted.signature_scheme
            key, scheme = manager.session.key, manager.session.signature_scheme
            transport, ip = manager.transport, manager.ip
            if transport == "tcp" and not is_local_ip(ip):
                raise KernelStartError(
                    f"{ip} is no address of this machine; kernels are reached through an address "
                    "of the Jupyter server's own machine, such as 127.0.0.1."
                )
            curve = self._front_keys()
            ports = {name: getattr(manager, f"{name}_port") for name in _CHANNELS}
        relay = Relay(
            key=key, signature_scheme=scheme, language=getattr(self.kernel_spec, "language", "")
        )
        try:
            front = await runtime.call(
                _bind(relay, transport=transport, ip=ip, ports=ports, curve=curve)
            )
            self._kernel = await runtime.call(self._control(runtime, relay))
        except BaseException:
            relay.close()
            raise
        self.connection_info = _as_info(front)
        if manager is not None:
            for name in _CHANNELS:
                setattr(manager, f"{name}_port", front.ports[name])

    async def _control(self, runtime: Runtime, relay: Relay) -> Kernel:
        """Have a controller for the kernel. On the runtime's loop."""
        return runtime.kernels.add(
            self.kernel_id or "",
            await runtime.engine(self.engine),
            relay,
            folder=runtime.kept_folder,
            root=str(self._root) if self._root else None,
            session=self.parent.session.session if self.parent is not None else "",
            start_timeout=self.start_timeout,
        )

    def _front_keys(self) -> tuple[str | None, str | None]:
        """Keys for the clients' side, under the kernel manager's own rule for kernels."""
        manager: Any = self.parent
        rule = getattr(manager, "transport_encryption", "disabled")
        if rule == "disabled" or (
            rule == "auto" and not _can_encrypt(self.kernel_spec.metadata or {})
        ):
            return None, None
        if manager.curve_publickey is None:
            manager.curve_publickey, manager.curve_secretkey = zmq.curve_keypair()
        return manager.curve_publickey.decode(), manager.curve_secretkey.decode()

    def _command(self, extra: list[str], *, session: str) -> list[str]:
        """The kernel's command, with a placeholder for the connection file of its own side."""
        manager = self.parent
        if manager is None:
            return [*self.kernel_spec.argv, *extra]
        manager.write_connection_file(jupyter_session=session)
        front_file = os.path.realpath(manager.connection_file)
        argv = manager.format_kernel_cmd(extra_arguments=extra)
        return [part.replace(front_file, _CONNECTION_FILE) for part in argv]

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Get the share and start the kernel.

        Called by ``KernelManager.launch_kernel``. Returns the relay's connection info when the
        kernel has answered, or while it is queued once ``queue_patience`` is over.

        Raises
        ------
        GpuShareError: it cannot start; the text is shown to the user. Nothing is left behind,
        since nobody calls :meth:`cleanup` then.
        """
        revived = False
        try:
            assert self._runtime is not None
            assert self._kernel is not None
            assert self._wanted is not None
            self._cwd = Path(kwargs.get("cwd") or Path.cwd())
            self._restart = False
            revived = self._kernel.died
            request = self._request(cmd, kwargs)
            if self._adopted is not None and self._adopted.saved:
                await self._runtime.call(self._kernel.adopt(request))
            else:
                await self._runtime.call(self._kernel.launch(request, patience=self.queue_patience))
        except GpuShareError as error:
            if not revived:
                await self._fail(error)
                raise
            # Nobody waits for the start of a kernel that died and is started again by the
            # restarter. It counts failures by polling, and gives up after some.
            self.log.warning("%s", error)
        except BaseException as error:
            await self._fail(error)
            raise
        self._has_process = True
        return self.connection_info

    def _request(self, cmd: list[str], kwargs: dict[str, Any]) -> Any:
        from .engines._hash_seed import HASH_SEED, hash_seed
        from .engines.base import KernelRequest

        assert self._wanted is not None
        manager = self.parent
        options = {key: value for key, value in kwargs.items() if key != "kernel_id"}
        env = dict(options.pop("env", None) or os.environ)
        declared = set(self.kernel_spec.env)
        if self.kernel_spec.language.lower().startswith("python"):
            env[HASH_SEED] = hash_seed(self.kernel_id or "", env)
            declared.add(HASH_SEED)
        return KernelRequest(
            kernel_id=self.kernel_id or "",
            kernel_name=getattr(manager, "kernel_name", "") or self.kernel_spec.display_name,
            size=self._wanted,
            argv=tuple(cmd),
            env=env,
            key=manager.session.key if manager is not None else b"",
            signature_scheme=(
                manager.session.signature_scheme if manager is not None else "hmac-sha256"
            ),
            language=self.kernel_spec.language or "",
            can_encrypt=_can_encrypt(self.kernel_spec.metadata),
            path=self._shown_path,
            user=env.get("JUPYTERHUB_USER") or _login(),
            declared=frozenset(declared),
            options=options,
        )

    async def _fail(self, error: BaseException) -> None:
        if self._chosen is not None and isinstance(error, (SizeError, NoGpuError)):
            await self._forget_choice(self._chosen)
        # What an earlier server has saved is not lost because it could not be taken over now.
        await self._free(park=self._adopted is not None and self._adopted.saved)
        _forget_start(self.parent, self.kernel_id)
        _tell_server(error, self.parent)

    async def _free(self, *, park: bool = False) -> None:
        """Give back all that a start took. A later start opens a new relay on the same ports."""
        kernel, self._kernel = self._kernel, None
        self._has_process = False
        if kernel is not None and self._runtime is not None:
            closing = self._runtime.kernels.close(kernel, park=park)
            await asyncio.shield(self._runtime.call(closing))

    # -- watch and signal --------------------------------------------------------------------

    async def poll(self) -> int | None:
        """None while the kernel runs, is queued or has given its share back; else its exit code.

        Called by ``KernelManager.is_alive``, every 3 s by the restarter and ten times a second in
        a shutdown: a look into memory.
        """
        return 0 if self._kernel is None else self._kernel.exit_code

    async def wait(self) -> int | None:
        """Wait for the kernel's end. Called at the end of a shutdown and after a kill."""
        code = 0
        if self._kernel is not None and self._runtime is not None and self._has_process:
            code = await self._runtime.call(self._kernel.ended())
        self._has_process = False
        return code

    async def send_signal(self, signum: int) -> None:
        """Signal the kernel's process group; SIGINT to a queued kernel gives up waiting.

        Called by ``KernelManager.signal_kernel``, for interrupts among others.
        """
        if self._kernel is not None and self._runtime is not None:
            await self._runtime.call(self._kernel.signal(signum))

    # -- end ---------------------------------------------------------------------------------

    async def shutdown_requested(self, restart: bool = False) -> None:
        """Remember whether the kernel comes back: neither terminate nor kill is told.

        Called by ``KernelManager.request_shutdown`` once the request was sent. A kernel that is
        queued or has given its share back ends here, as there is no process to wait for.
        """
        self._restart = restart
        if self._kernel is not None and self._runtime is not None:
            await self._runtime.call(self._kernel.expect_end(restart=restart))

    async def terminate(self, restart: bool = False) -> None:
        """Ask the process to end. Called in a shutdown when the kernel takes its time."""
        await self.send_signal(signal.SIGTERM)

    async def kill(self, restart: bool = False) -> None:
        """End the process at once; the share is dealt with in :meth:`cleanup`.

        Called by ``KernelManager.kill_kernel``; a restart ``now`` comes here without a word that
        it is one.
        """
        await self.send_signal(signal.SIGKILL)

    async def cleanup(self, restart: bool = False) -> None:
        """Give back the share and the ports, or keep both for the next start.

        Called by ``KernelManager.cleanup_resources`` after every shutdown.
        """
        if self._kernel is None or self._runtime is None:
            return
        if restart or self._restart:
            await self._runtime.call(self._kernel.expect_restart())
        else:
            await self._free()

    def get_stable_start_time(self, recommended: float = 10.0) -> float:
        """Seconds after which a start counts as succeeded. Called by the restarter."""
        return max(recommended, self.start_timeout) if self._waits else recommended

    @property
    def _waits(self) -> bool:
        return self._kernel is not None and self._kernel.exit_code is None and not self._has_process

    def resolve_path(self, path_str: str) -> str | None:
        """A path relative to the kernel's working directory. Called by the server's debugger."""
        path = Path(path_str).expanduser()
        if not path.is_absolute() and self._cwd:
            path = (self._cwd / path).resolve()
        return path.as_posix() if path.exists() else None


class _Refused(web.HTTPError):
    """An error of this package as an answer of a Jupyter server, with its one line."""

    def __init__(self, error: GpuShareError) -> None:
        status = 400 if isinstance(error, SizeError) else 503
        super().__init__(status, log_message=str(error), reason="No GPU share")

    def __str__(self) -> str:
        return str(self.__cause__)


def _forget_start(manager: object, kernel_id: str | None) -> None:
    """Have a manager of several kernels forget a start that failed.

    jupyter_client keeps it among the pending ones; a Jupyter server that has one cannot stop.
    """
    several = getattr(manager, "parent", None)
    pending: Any = getattr(several, "_pending_kernels", None)
    task = asyncio.current_task()
    if task is None or not isinstance(pending, dict) or pending.get(kernel_id) != task:
        return
    if not getattr(several, "use_pending_kernels", False):
        task.add_done_callback(lambda _: pending.pop(kernel_id, None))


def _tell_server(error: BaseException, manager: object) -> None:
    """Have a Jupyter server show our line: of other errors it shows no more than a traceback."""
    server = sys.modules.get("jupyter_server.services.kernels.kernelmanager")
    if (
        isinstance(error, GpuShareError)
        and server is not None
        and isinstance(manager, server.ServerKernelManager)
    ):
        raise _Refused(error) from error


async def _bind(relay: Any, *, curve: tuple[str | None, str | None], **where: Any) -> Connection:
    connection: Connection = await asyncio.to_thread(
        lambda: relay.bind(**where, curve_publickey=curve[0], curve_secretkey=curve[1])
    )
    return connection


def _as_info(front: Connection) -> KernelConnectionInfo:
    info: dict[str, Any] = {
        "transport": front.transport,
        "ip": front.ip,
        "signature_scheme": front.signature_scheme,
        "key": front.key,
        **{f"{name}_port": number for name, number in front.ports.items()},
    }
    if front.curve_publickey and front.curve_secretkey:
        info["curve_publickey"] = front.curve_publickey
        info["curve_secretkey"] = front.curve_secretkey
    return cast("KernelConnectionInfo", info)


def _can_encrypt(metadata: dict[str, Any]) -> bool:
    declared = metadata.get("supported_encryption") or ()
    names = [declared] if isinstance(declared, str) else declared
    return "curve" in {str(name).strip().lower() for name in names}


def _login() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
