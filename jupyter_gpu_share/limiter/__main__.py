"""``python -m jupyter_gpu_share.limiter`` runs the service; root only. See docs/local-engine.md."""

from __future__ import annotations

import argparse
import grp
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from . import _driver
from ._driver import DriverError
from ._groups import Groups, GroupsError, mounted
from ._service import Service

_SOCKET = Path("/run/jupyter-gpu-share/limiter.sock")
_TREE = "jupyter-gpu-share"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; 1 with a line that says why where it cannot run."""
    asked = parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    if os.geteuid() != 0:
        print("Only root may limit the memory of a GPU: run this as root.", file=sys.stderr)
        return 1
    try:
        group = grp.getgrnam(asked.group).gr_gid if asked.group else 0
    except KeyError:
        print(f"There is no group of users {asked.group!r}.", file=sys.stderr)
        return 1
    try:
        tree = asked.tree or (mounted() or Path("/sys/fs/cgroup")) / _TREE
        service = Service(Groups(tree))
        gpus = _driver.memory()
    except (GroupsError, DriverError) as error:
        print(error, file=sys.stderr)
        return 1
    listening = _listen(asked.socket, group)
    signal.signal(signal.SIGTERM, lambda *_: service.end(listening))
    logging.info("limits the memory of %d GPUs, below %s", len(gpus), tree)
    try:
        service.serve(listening)
    finally:
        with suppress(FileNotFoundError):
            asked.socket.unlink()
    return 0


def parser() -> argparse.ArgumentParser:
    """What can be asked of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jupyter_gpu_share.limiter",
        description="Has NVIDIA's driver (615 or newer) limit the GPU memory of kernels.",
    )
    parser.add_argument("--socket", type=Path, default=_SOCKET, help="default: %(default)s")
    parser.add_argument("--group", default="", help="users who may use it; default: root only")
    parser.add_argument(
        "--tree",
        type=Path,
        help="folder of control groups; default: jupyter-gpu-share at their root",
    )
    return parser


def _listen(path: Path, group: int) -> socket.socket:
    """A socket that only root and one group of users can reach."""
    with suppress(FileNotFoundError):
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # nobody reaches it before it is whose it shall be
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    if group:
        os.chown(path, 0, group)
        path.chmod(0o660)
    listening.listen(64)
    return listening


if __name__ == "__main__":
    sys.exit(main())
