"""A notebook that the demo runs. It needs nbclient, which the demo asks for first."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from jupyter_core.utils import ensure_async
from nbclient import NotebookClient

__all__ = ["DemoNotebook"]


class DemoNotebook(NotebookClient):
    """A notebook whose kernel ends whenever its run does.

    nbclient itself listens to SIGINT and SIGTERM: the kernel of the last notebook ends then, and
    the others go on.
    """

    @asynccontextmanager
    async def async_setup_kernel(self, **kwargs: Any) -> AsyncGenerator[None, None]:
        """Have a kernel. Called by :meth:`async_execute`, with what that was given."""
        manager, now = self.create_kernel_manager(), True
        try:
            await self.async_start_new_kernel(**kwargs)
            await self.async_start_new_kernel_client()
            yield
            now = False
        finally:
            if self.kc is not None:
                self.kc.stop_channels()
            if manager.has_kernel:
                await ensure_async(manager.shutdown_kernel(now=now))
