"""Where the local engine keeps its files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir

from ...errors import EngineError
from .._processes import Holder, sweep_folders, this_boot

__all__ = [
    "is_common",
    "kernel_folder",
    "ledger_folder",
    "make_as_open",
    "sweep_kernel_folders",
]


def ledger_folder() -> Path:
    """The user's own folder of ledgers for this machine since it was booted.

    It lies in the data folder, which all servers of a user have in common; runtime folders may
    differ. Home folders are often shared between machines, whose processes and GPUs have nothing
    to do with each other.
    """
    return Path(jupyter_data_dir()) / "gpu-share" / this_boot()


def is_common(folder: str) -> bool:
    """Whether a ledger's folder is for several users: others than its owner may write there."""
    try:
        return bool(folder) and bool(Path(folder).stat().st_mode & 0o022)
    except OSError:  # it is not there yet
        return False


def kernel_folder(owner: Holder) -> Path:
    """Make a folder for one kernel's connection file and sockets, which only the user can enter.

    It lies under a folder named after the process that owns it, so that another can sweep it.
    Its path is short: that of a socket has about 100 characters at most.
    """
    base = _private(_base()) / owner.folder
    base.mkdir(mode=0o700, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=base, prefix=""))


def sweep_kernel_folders() -> None:
    """Remove the folders of processes that are gone; their kernels ended with them."""
    base = _base()
    if not base.is_dir() or base.lstat().st_uid != os.getuid():
        return
    sweep_folders(base)


def make_as_open(folder: Path) -> None:
    """Make a folder that those may write who may write the one that it is in."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    others = folder.parent.stat().st_mode & 0o022
    if others:
        folder.chmod(0o2700 | others | others << 1 | others >> 1)


def _base() -> Path:
    return Path(tempfile.gettempdir()) / f"gpu-share-{os.getuid()}"


def _private(folder: Path) -> Path:
    """The folder, made if need be, and nobody else's."""
    folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if folder.is_symlink() or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise EngineError(
            f"{folder} belongs to somebody else or is open to others; "
            "remove it, or set TMPDIR to a folder of your own."
        )
    return folder
