"""The administrator's rules about what a kernel keeps when its share is given back."""

from __future__ import annotations

from traitlets import Bool, Float, Integer, Unicode
from traitlets.config import LoggingConfigurable


class KeepingSettings(LoggingConfigurable):
    """How the state of a kernel is kept while its share is somebody else's."""

    in_place = Bool(
        True,
        config=True,
        help="""
        Whether a kernel's process may live on without its share, what it had in the GPU's memory
        being moved to the machine's. Otherwise its variables are saved and it ends. Default True.

        ::

            c.IdlePolicy.in_place = False
        """,
    )

    snapshot_folder = Unicode(
        "",
        config=True,
        help="""
        Folder of the Jupyter server for the variables of kernels whose process had to end to give
        its share back. Each user has a private folder in it; where several users have it in common,
        it needs its sticky bit (mode 1777). Default: a folder in the user's Jupyter data folder.

        ::

            c.IdlePolicy.snapshot_folder = "/scratch/kept"
        """,
    )
    snapshot_limit = Integer(
        4 * 2**30,
        min=0,
        config=True,
        help="""
        Bytes that the saved variables of one kernel may take. A kernel with more keeps its share.
        Default 4294967296 (4 GiB).

        ::

            c.IdlePolicy.snapshot_limit = 16 * 2**30
        """,
    )
    snapshot_patience = Float(
        300.0,
        min=0,
        config=True,
        help="""
        Seconds that it may take to read saved variables back, before their process is ended: a
        fresh process does that, without a GPU, and what it gets is compared. Where it takes longer,
        the kernel keeps its share. Default 300.

        ::

            c.IdlePolicy.snapshot_patience = 900
        """,
    )
    snapshot_lifetime = Float(
        7 * 86400.0,
        min=0,
        config=True,
        help="""
        Seconds that saved variables wait for the next Jupyter server of the same notebooks, once
        theirs has stopped or was killed. Default 604800 (a week); 0 for not at all.

        ::

            c.IdlePolicy.snapshot_lifetime = 86400
        """,
    )
    snapshot_encryption = Bool(
        False,
        config=True,
        help="""
        Whether saved variables are encrypted on the disk, with a key in the user's Jupyter data
        folder. It needs the package cryptography (``jupyter-gpu-share[encryption]``) where the
        Jupyter server runs. For a moment the variables are in the machine's memory once more.
        Default ``False``.

        ::

            c.IdlePolicy.snapshot_encryption = True
        """,
    )
