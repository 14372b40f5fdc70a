"""Processes that use a GPU and belong to no kernel with a claim."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .._processes import Holder, carries_any
from ._contents import Claim
from ._gpu import Gpu
from ._inventory import OpenedGpus, all_use

__all__ = ["Outsider", "outsiders", "users_of"]

_PROC = Path("/proc")


@dataclass(frozen=True)
class Outsider:
    """A process that uses GPUs without a share.

    Attributes
    ----------
    uid: of its real user.
    command: as the process calls itself, which may be anything.
    used: bytes by uuid; None where the driver does not tell.
    draws: it shows a picture, as a desktop does.
    """

    process: Holder
    uid: int
    command: str
    used: Mapping[str, int | None]
    draws: bool


def users_of(gpus: Collection[Gpu]) -> dict[Holder, OpenedGpus]:
    """All processes that use these GPUs. Blocks on the driver.

    In a container with process numbers of its own nothing is known.

    Raises
    ------
    NoGpuError: the driver is gone.
    """
    return {Holder.of(pid): opened for pid, opened in all_use(gpus).items()}


def outsiders(users: Mapping[Holder, OpenedGpus], claims: Collection[Claim]) -> list[Outsider]:
    """Those of the processes that use GPUs without a share. Blocks on the disk.

    To a kernel belongs what it has started, what is in its session, and what carries its claim.

    Parameters
    ----------
    claims: as they are after the processes were looked for, or a kernel that has just started is
        taken for an outsider.
    """
    if not users:
        return []
    kernels = {claim.kernel.pid for claim in claims if claim.kernel and claim.place.is_here}
    own = {user.pid for user in users if _is_of(kernels, user.pid)}
    own |= carries_any({user.pid for user in users} - own, {claim.token for claim in claims})
    found = [_outsider(user, opened) for user, opened in users.items() if user.pid not in own]
    return [each for each in found if each is not None]


def _is_of(kernels: Collection[int], pid: int) -> bool:
    """Whether one of these has started a process, or a process of its session has."""
    while pid:
        if pid in kernels:
            return True
        try:
            text = (_PROC / str(pid) / "stat").read_text(errors="replace")
        except OSError:
            return False
        # The name, in brackets, may hold anything.
        parent, _, session = map(int, text.rpartition(")")[2].split()[1:4])
        if session in kernels:
            return True
        pid = parent
    return False


def _outsider(process: Holder, opened: OpenedGpus) -> Outsider | None:
    """None where the process has ended."""
    with suppress(OSError, KeyError):
        lines = (_PROC / str(process.pid) / "status").read_text(errors="replace").splitlines()
        said = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        uid = int(said["Uid"].split()[0])
        # What was read is of this process, not of a later one with its number.
        if process.alive:
            return Outsider(process, uid, said["Name"], opened.used, opened.draws)
    return None
