"""Control groups of Linux (version 2): one for each kernel, below one for each user."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["Groups", "GroupsError", "mounted"]

_PROC = Path("/proc")
#: The controller in which drivers keep limits of their memory, where Linux has it.
_CONTROLLER = "dmem"
#: Limits of the machine that a process must not escape by coming into another group.
_BOUNDS = {"memory.max": "memory", "memory.high": "memory", "cpu.max": "processor time"}


class GroupsError(Exception):
    """A sentence about a group that cannot be made, entered or ended."""


def mounted() -> Path | None:
    """Where control groups of version 2 are mounted; None: nowhere."""
    for line in (_PROC / "self" / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] == "cgroup2":
            return Path(before.split()[4])
    return None


class Groups:
    """The groups below one folder.

    Parameters
    ----------
    tree: a folder of the file system of control groups. It is made.

    Raises
    ------
    GroupsError: it cannot be made there.
    """

    def __init__(self, tree: Path) -> None:
        root = mounted()
        if root is None or root not in tree.parents:
            where = "are not mounted" if root is None else f"are mounted at {root}"
            raise GroupsError(f"{tree} is no place for control groups: those of version 2 {where}.")
        self.tree = tree
        self._root = root
        try:
            _make(tree)
        except OSError as error:
            raise GroupsError(f"{tree} cannot be made: {error.strerror}.") from error

    def path(self, uid: int, name: str) -> Path:
        """The folder of a user's group, which may not be there."""
        return self.tree / str(uid) / name

    def all(self) -> Iterator[Path]:
        """Folders of the groups that are there."""
        yield from (path for path in self.tree.glob("*/*") if path.is_dir())

    def make(self, uid: int, name: str) -> Path:
        """The folder of a group, which is new or empty.

        Raises
        ------
        GroupsError: processes are in it.
        """
        path = self.path(uid, name)
        try:
            _make(path.parent)
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise GroupsError(f"The group {path} cannot be made: {error.strerror}.") from error
        if self.is_populated(path):
            raise GroupsError(f"Processes are left in the group {path}; end them.")
        return path

    def join(self, path: Path, pid: int, uid: int) -> None:
        """Move a process of a user's into a group of the user's.

        Raises
        ------
        GroupsError: it is not the user's alone, or would escape limits of the group that it is in.
        """
        try:
            watch = os.pidfd_open(pid)
        except OSError as error:
            raise GroupsError("The process that has asked is gone.") from error
        try:
            # From here on its number is not another's unnoticed. A program that runs with somebody
            # else's rights is not the user's to move.
            if any(each != uid for each in _owners(pid)):
                raise GroupsError("The process that has asked has rights of another user.")
            self._refuse_escape(pid)
            (path / "cgroup.procs").write_text(str(pid))
            if select.select([watch], [], [], 0)[0] or self._group_of(pid) != path:
                raise GroupsError("The process that has asked is gone.")
        except FileNotFoundError as error:
            raise GroupsError(f"There is no group {path}.") from error
        except OSError as error:
            raise GroupsError(f"The process cannot be moved to {path}: {error}.") from error
        finally:
            os.close(watch)

    def is_inside(self, pid: int) -> bool:
        """Whether a process is in a group below the tree, or cannot be seen."""
        try:
            return self.tree in self._group_of(pid).parents
        except (OSError, GroupsError):
            return True

    def is_populated(self, path: Path) -> bool:
        """Whether processes are in a group."""
        try:
            return "populated 1" in (path / "cgroup.events").read_text().splitlines()
        except FileNotFoundError:
            return False

    def end(self, path: Path, patience: float) -> bool:
        """Kill all that is in a group; whether it is empty within ``patience`` seconds."""
        try:
            (path / "cgroup.kill").write_text("1")
        except FileNotFoundError:
            return not self.is_populated(path)
        end = time.monotonic() + patience
        with (path / "cgroup.events").open() as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)  # the system tells of changes there so
            while "populated 1" in events.read().splitlines():
                left = end - time.monotonic()
                if left <= 0:
                    return False
                poll.poll(left * 1000)
                events.seek(0)
        return True

    def remove(self, path: Path) -> None:
        """Remove a group that is empty, and its user's where that was the last one."""
        with suppress(FileNotFoundError):
            path.rmdir()
        with suppress(OSError):
            path.parent.rmdir()

    def _group_of(self, pid: int) -> Path:
        for line in (_PROC / str(pid) / "cgroup").read_text().splitlines():
            if line.startswith("0::/"):
                return self._root / line[len("0::/") :]
        raise GroupsError(f"Process {pid} is in no control group of version 2.")

    def _refuse_escape(self, pid: int) -> None:
        """Who leaves a group leaves the limits of those around it that are not around the tree."""
        group = self._group_of(pid)
        for around in (group, *group.parents):
            if around == self._root or around in self.tree.parents:
                return
            for name, what in _BOUNDS.items():
                with suppress(FileNotFoundError):
                    bound = (around / name).read_text().split()
                    if bound and bound[0] != "max":
                        raise GroupsError(
                            f"The group {around} limits {what}, which a kernel must not leave: "
                            "the administrator has to name a --tree below it, or take the limit "
                            "away."
                        )


def _make(folder: Path) -> None:
    """A folder whose groups can have limits of a driver's memory, where Linux keeps those."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in (folder.parent, folder):
        with suppress(FileNotFoundError):
            if _CONTROLLER in (each / "cgroup.controllers").read_text().split():
                (each / "cgroup.subtree_control").write_text(f"+{_CONTROLLER}")


def _owners(pid: int) -> list[int]:
    """Real, effective, saved and file system's user of a process."""
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("Uid:"):
            return [int(each) for each in line.split()[1:]]
    return [-1]
