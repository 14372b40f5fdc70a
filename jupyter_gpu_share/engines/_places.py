"""Where the number of a process means something.

Containers have process numbers of their own, and so has each boot of each machine. What is said of
a process of another place is nothing that can be looked up here: it may live.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

__all__ = ["NOWHERE", "Place", "boot_id", "counts_as_driver", "here"]

_PROC = Path("/proc")
#: The namespace of process numbers that a machine starts with has this name on every Linux.
_FIRST = "4026531836"
_MACHINE = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))


def counts_as_driver() -> bool:
    """Whether process numbers mean the same here as to a GPU's driver, which counts in the first.

    In other namespaces it tells numbers that mean other processes there, or own ones without their
    memory.
    """
    return here().namespace == _FIRST


@dataclass(frozen=True)
class Place:
    """A namespace of process numbers.

    Attributes
    ----------
    boot: differs from one boot of a machine to the next.
    namespace: "-" where the system has none; empty where an earlier version did not note it.
    host: the machine's name for people.
    machine: the same over boots; empty in containers, whose images may all bring the same.
    """

    boot: str
    namespace: str
    host: str
    machine: str

    @property
    def is_here(self) -> bool:
        """Whether its process numbers are those that this process sees."""
        now = here()
        return (self.boot, self.namespace) == (now.boot, now.namespace)

    @property
    def has_ended(self) -> bool:
        """True where all its processes are gone for certain: it is an earlier boot of this machine.

        Machines that were copied may have one id; they do not have one name too.
        """
        now = here()
        same = bool(now.machine) and (self.machine, self.host) == (now.machine, now.host)
        return same and self.boot != now.boot

    @property
    def name(self) -> str:
        """For parts of file names: short, and the same for all processes of this place."""
        return sha256(f"{self.boot} {self.namespace}".encode()).hexdigest()[:8]

    def __str__(self) -> str:
        if self.boot == here().boot:
            return f"another container on {self.host or 'this machine'}"
        return f"another machine or boot ({self.host or 'its name was not noted'})"


#: What is known where nothing is.
NOWHERE = Place("", "", "", "")


def here() -> Place:
    """The place of this process."""
    namespace = _namespace()
    machine = _machine() if namespace == _FIRST else ""
    return Place(boot_id(), namespace, socket.gethostname(), machine)


@cache
def boot_id() -> str:
    """Differs from one boot of the machine to the next, where the system tells."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown-boot"


def _namespace() -> str:
    try:
        return str((_PROC / "self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        return "-"


@cache
def _machine() -> str:
    """Hashed: the id itself is not for others to read."""
    for path in _MACHINE:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text and text != "uninitialized":
            return sha256(b"jupyter-gpu-share " + text.encode()).hexdigest()[:32]
    return ""
