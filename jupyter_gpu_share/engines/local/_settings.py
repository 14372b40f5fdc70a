"""Settings of the engine ``local``."""

from __future__ import annotations

import os

from traitlets import CaselessStrEnum, Float, Unicode, default

from .._presence import SIMULATE
from ..base import Engine

__all__ = ["LocalSettings"]


class LocalSettings(Engine):
    """What administrators set; ``c.LocalEngine`` names them."""

    directory = Unicode(
        "",
        config=True,
        help="""
        Folder of the ledger, which says who holds how much of which GPU. All servers that use the
        same folder share the GPUs. Default: one for each user and machine, in the user's Jupyter
        data folder. For several users name a folder on a local disk that all of them may write.

        ::

            c.LocalEngine.directory = "/var/lib/jupyter-gpu-share"
        """,
    )
    simulate = Unicode(
        config=True,
        help="""
        GPUs to simulate instead of using real ones, as number, model and memory. Default: the
        environment variable ``JUPYTER_GPU_SHARE_SIMULATE``, else empty (real GPUs).

        ::

            c.LocalEngine.simulate = "2xA100-80GB"
        """,
    )
    transport = CaselessStrEnum(
        ["auto", "ipc", "tcp"],
        default_value="auto",
        config=True,
        help="""
        How the relay reaches a kernel: ``ipc`` (sockets in a folder that only the user can enter),
        ``tcp`` (loopback, encrypted where the kernelspec declares it), or ``auto``: ipc for
        kernels of ipykernel that Python itself starts, where the path of the temporary folder is
        short enough, else tcp. Default ``auto``.

        ::

            c.LocalEngine.transport = "tcp"
        """,
    )
    mps = CaselessStrEnum(
        ["auto", "off"],
        default_value="auto",
        config=True,
        help="""
        Whether NVIDIA's MPS server, where it runs, enforces the memory of shares. Default ``auto``.

        ::

            c.LocalEngine.mps = "off"
        """,
    )
    limiter = Unicode(
        "",
        config=True,
        help="""
        Socket of the service with which NVIDIA's driver (615 or newer) limits the GPU memory of
        kernels (isolation ``driver``). Where it does not answer, no kernel gets a share. Default:
        empty (off).

        ::

            c.LocalEngine.limiter = "/run/jupyter-gpu-share/limiter.sock"
        """,
    )
    queue_interval = Float(
        0.25,
        min=0.01,
        config=True,
        help="""
        Seconds between two looks at the ledger while kernels of this server wait, for room that
        another server made. One look serves all of them. Default 0.25.

        ::

            c.LocalEngine.queue_interval = 1.0
        """,
    )

    @default("simulate")
    def _simulate_default(self) -> str:
        return os.environ.get(SIMULATE, "")
