"""Files with the variables of kernels whose process ended to give its share back.

They lie in a folder of the process that saved them. A Jupyter server writes beside each whose it
is: once it has stopped or was killed, the next one of the same folder of notebooks takes them over.
What other programs leave, nobody could ask for.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..engines._places import here
from ..engines._processes import Holder, this_boot, this_process
from ..errors import SizeError
from ..size import Size

__all__ = [
    "Note",
    "forget",
    "kept_folder",
    "make_folder",
    "private",
    "settle",
    "sweep",
    "take_over",
]

_log = logging.getLogger(__name__)

#: Endings of a file's name: the variables, and whose they are.
KEPT, NOTE = ".kept", ".json"


@dataclass(frozen=True)
class Note:
    """Whose variables a file has.

    Attributes
    ----------
    root: folder of notebooks of the server, which is who may take them over.
    path: of the notebook, within that folder.
    """

    kernel_id: str
    kernel_name: str
    size: str
    root: str
    path: str | None

    def write(self, kept: Path) -> None:
        """Put it beside a file of variables."""
        text = json.dumps(asdict(self))
        partial = kept.with_suffix(".note")
        with private(partial) as file:
            file.write(text.encode())
        settle(partial, kept.with_suffix(NOTE))

    @classmethod
    def beside(cls, kept: Path) -> Note | None:
        """What is written beside a file of variables; None where nothing sound is."""
        try:
            found = json.loads(kept.with_suffix(NOTE).read_text())
            note = cls(**found)
            texts = [value for name, value in found.items() if name != "path"]
            texts += [note.path] if note.path is not None else []
            if not all(text and isinstance(text, str) for text in texts):
                return None
            Size.parse(note.size)
        except (OSError, ValueError, TypeError, SizeError):
            return None
        return note


def kept_folder(base: Path) -> Path:
    """Where this process keeps variables: what it leaves behind can be told from others'."""
    return base / this_boot() / this_process().folder


def make_folder(folder: Path) -> None:
    """Make this process's folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def take_over(folder: Path, root: str, lifetime: float) -> list[Note]:
    """Have the variables that dead processes have saved for the notebooks below ``root``.

    Of several who do this at once one gets each. They lie in ``folder``, this process's, then.
    What has waited for more than ``lifetime`` seconds is forgotten.
    """
    sweep(folder, lifetime)
    taken = []
    for kept in list(_left(folder)):
        note = Note.beside(kept)
        if note is None or note.root != root:
            continue
        make_folder(folder)
        mine = folder / kept.name
        try:
            note.write(mine)
            kept.rename(mine)
        except OSError:  # somebody else was faster, or it cannot be had
            if not mine.exists():
                forget(mine)
            continue
        with suppress(OSError):
            kept.with_suffix(NOTE).unlink()
        taken.append(note)
    return taken


def forget(kept: Path) -> None:
    """Remove a file of variables, and whose it is."""
    for path in (kept, kept.with_suffix(NOTE)):
        with suppress(OSError):
            path.unlink()


def sweep(folder: Path, lifetime: float) -> None:
    """Remove what dead processes have left, but what may still be taken over.

    Parameters
    ----------
    folder: this process's.
    lifetime: seconds for which that may be.
    """
    now = time.time()
    for dead in _dead(folder):
        waiting = set()
        for kept in dead.glob("*" + KEPT):
            with suppress(OSError):
                note, age = Note.beside(kept), now - kept.stat().st_mtime
                if note is not None and age <= lifetime:
                    waiting |= {kept.name, kept.with_suffix(NOTE).name}
                elif note is not None:
                    where = note.path or note.kernel_id
                    _log.warning("The variables of %s waited too long and are forgotten", where)
        if not waiting:
            shutil.rmtree(dead, ignore_errors=True)
            continue
        for path in dead.iterdir():
            if path.name not in waiting:
                with suppress(OSError):
                    path.unlink()


def _left(folder: Path) -> Iterator[Path]:
    for dead in _dead(folder):
        yield from sorted(dead.glob("*" + KEPT))


def _dead(folder: Path) -> Iterator[Path]:
    """Folders of processes that are gone: of this boot of the machine, or of an earlier one."""
    boot = folder.parent
    host = boot.name.rpartition("-")[0]
    with suppress(OSError):
        for other in boot.parent.iterdir():
            if other.name.rpartition("-")[0] != host:
                continue  # another machine's
            for each in other.iterdir():
                pid, _, rest = each.name.partition("-")
                start, _, place = rest.rpartition("-")
                if not pid.isdigit() or (other == boot and place != here().name):
                    continue  # of another container nobody can tell whether it lives
                alive = other == boot and Holder(int(pid), start).alive
                if each != folder and not alive:
                    yield each


def private(path: Path) -> Any:
    """A new file to write that only its owner reads."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def settle(partial: Path, path: Path) -> None:
    """Give a file that is complete its name, on the disk too."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
