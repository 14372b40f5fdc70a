"""The extension of jupyter_server."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import zmq
from jupyter_server.extension.application import ExtensionApp
from jupyter_server.utils import ensure_async
from traitlets import Bool
from traitlets.config import Config

from .._threads import stopped, within
from ..errors import AbsentGpuError, GpuShareError
from ..idle import IdlePolicy
from ..size import SizePolicy
from ._adopt import adopt_kernels
from ._default import DefaultProvisioner, chosen_elsewhere, has_gpus
from ._events import EVENT_SCHEMA, EventRelay
from ._handler import ELSEWHERE, ON_SHARE, RUNTIME, SHOW_QUEUE
from ._handlers import ROUTES
from ._metrics import Metrics
from ._paths import NotebookPaths
from ._stopping import settle_restarts, settle_starts, stop_on_interrupt, stop_restarters

if TYPE_CHECKING:
    from ..runtime import Runtime

#: Seconds in which kernels are ended in good order; what is left is then killed.
_STOP_PATIENCE = 8.0
#: Seconds in which starts that were under way then have to end.
_SETTLE_PATIENCE = 0.5
_BEHIND_GATEWAY = (
    "Kernels of this server run behind a gateway; their GPUs are shared out there, not here."
)

#: Sockets that the server's context may have: as many as it may have files.
_SOCKETS = 65_000


class GpuShareApp(ExtensionApp):
    """GPU shares of this server's kernels: REST under ``gpu-share/``, events and metrics."""

    name = "jupyter_gpu_share"
    extension_url = "/gpu-share"
    load_other_extensions = True
    classes = [SizePolicy, IdlePolicy]

    show_queue = Bool(
        True,
        config=True,
        help="""
        Tell users how many kernels of others wait, without names. Default True.

        ::

            c.GpuShareApp.show_queue = False
        """,
    )

    all_kernels = Bool(
        True,
        config=True,
        help="""
        Start the kernels of every kernelspec that names no provisioner on a share. Default True.
        With False only those start on one whose kernelspec says so (``jupyter gpu-share install``).

        On a machine without a GPU, and where another default provisioner is configured, kernels
        start as without this package.

        ::

            c.GpuShareApp.all_kernels = False
        """,
    )

    _default: DefaultProvisioner | None = None
    _ask_driver = False

    def initialize_settings(self) -> None:
        """Put what handlers need into the settings. Called by jupyter_server, once."""
        assert self.serverapp is not None
        assert self.serverapp.event_logger is not None
        behind_gateway = self.serverapp.gateway_config.gateway_enabled
        self.settings[RUNTIME] = lambda: self.runtime
        self.settings[SHOW_QUEUE] = self.show_queue
        _have_room_for_sockets(self.serverapp.kernel_manager)
        self.settings[ELSEWHERE] = _BEHIND_GATEWAY if behind_gateway else None
        self._default = DefaultProvisioner(self.serverapp)
        self.settings[ON_SHARE] = self._default.starts_on_share
        elsewhere = chosen_elsewhere(self.serverapp.config)
        if self.all_kernels and not behind_gateway and elsewhere is not None:
            self.log.info("Which kernels start on a share of a GPU is chosen by %s", elsewhere)
        elif self.all_kernels and not behind_gateway:
            gpus = has_gpus(self.serverapp.config)
            # While the driver is asked, kernels rather fail to start than have every GPU.
            if gpus is not False:
                self._default.take()
            self._ask_driver = gpus is None
        self.serverapp.event_logger.register_event_schema(EVENT_SCHEMA)
        self._events: EventRelay | None = None
        self._metrics = Metrics()
        self._runtime: Runtime | None = None
        self._adopting: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._paths: NotebookPaths | None = None

    def initialize_handlers(self) -> None:
        """Add the routes. Called by jupyter_server, once."""
        self.handlers.extend(ROUTES)

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        """Begin to tell of changes, and take over kernels that still run.

        Called by jupyter_server when its event loop runs.
        """
        if self.settings[ELSEWHERE] is not None:
            return  # there is no kernel here to tell of, and none to take over
        stop_on_interrupt(partial(serverapp.stop, from_signal=True))
        runtime = self.runtime  # made here, so that what happens to the first kernel is told
        self._paths = NotebookPaths(serverapp, runtime)
        runtime.end_kernel = self._end_kernel
        # In the background: a cluster that does not answer must not keep the server away.
        self._adopting = asyncio.create_task(self._begin(serverapp, runtime))

    async def _begin(self, serverapp: Any, runtime: Runtime) -> None:
        if self._ask_driver:
            try:
                await runtime.gpus()
            except AbsentGpuError as error:
                if self._default is not None:
                    self._default.give_back()
                self.log.info("Kernels start without a share of a GPU. %s", error)
            except GpuShareError as error:
                self.log.warning("Kernels cannot get a share of a GPU now. %s", error)
        await adopt_kernels(serverapp, runtime)

    def _end_kernel(self, kernel_id: str) -> None:
        """Have a kernel ended as a user would. Called on the runtime's loop, which does not wait.

        The end of a kernel is the server's work: whoever waited for it there would wait for
        itself, as the kernel's own controller is a part of it.
        """
        assert self.serverapp is not None
        loop = self.serverapp.io_loop.asyncio_loop  # type: ignore[attr-defined]
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(self._begin_to_end, kernel_id)

    def _begin_to_end(self, kernel_id: str) -> None:
        task = asyncio.ensure_future(self._shut_down(kernel_id))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _shut_down(self, kernel_id: str) -> None:
        assert self.serverapp is not None
        manager: Any = self.serverapp.kernel_manager
        if kernel_id not in manager:
            return
        try:
            await ensure_async(manager.shutdown_kernel(kernel_id))
        except Exception:
            self.log.exception("Kernel %s could not be ended", kernel_id)

    @property
    def runtime(self) -> Runtime:
        """What all kernels of this process share, with this server's configuration."""
        if self._runtime is None:
            from ..runtime import Runtime

            assert self.serverapp is not None
            assert self.serverapp.event_logger is not None
            config = Config(self.serverapp.config)
            config.merge(self.config)
            self._runtime = Runtime.instance(config)
            self._events = EventRelay(self._runtime.table, self.serverapp.event_logger)
            known = partial(self._runtime.gpus, known=True)
            self._metrics.follow(self._runtime.table, known)
        return self._runtime

    async def stop_extension(self) -> None:
        """End this server's kernels in good order, and stop telling.

        Called by jupyter_server when it ends, before it shuts down what kernels are left.
        """
        try:
            if self._runtime is not None:
                # First of all: a Hub may leave it a second.
                await self._runtime.take_leave()
            await stopped(*self._ending, self._adopting)
            if self._paths is not None:
                await self._paths.close()
            if self._runtime is not None:
                await self._stop_kernels(self._runtime)
        finally:
            if self._default is not None:
                self._default.give_back()
            if self._events is not None:
                self._events.close()
                self._events = None
            self._metrics.close()

    async def _stop_kernels(self, runtime: Runtime) -> None:
        assert self.serverapp is not None
        stop_restarters(self.serverapp.kernel_manager)
        try:
            await within(_STOP_PATIENCE, runtime.stop())
        except asyncio.TimeoutError:
            self.log.warning(
                "Not all kernels have ended within %g s; the server ends them.", _STOP_PATIENCE
            )
        except Exception:
            # jupyter_server would end without a look at any kernel.
            self.log.exception("The kernels could not be ended in good order")
        await settle_starts(self.serverapp.kernel_manager, _SETTLE_PATIENCE)
        await settle_restarts(self.serverapp.kernel_manager, _SETTLE_PATIENCE)


def _have_room_for_sockets(manager: Any) -> None:
    """Have the server's own sockets not run out before its files do.

    Each kernel with a page takes six of the 1,023 that ZeroMQ gives a program at first, so that
    the 170th kernel could not be reached.
    """
    made = getattr(manager, "context", None)
    if isinstance(made, zmq.Context):
        with suppress(zmq.ZMQError):
            made.set(zmq.MAX_SOCKETS, _SOCKETS)
