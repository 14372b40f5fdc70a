"""What a user can read of what was lost, and the files of which something did not come back.

Such a file is put aside: no release, wake, restart or end of the kernel removes it. It lies in a
folder beside those of the servers' processes, with what is missing of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..allocations import timestamp
from ._private import new_file

__all__ = ["Aside", "Loss", "losses"]

_FOLDER = "unrestored"
_KEPT, _MISSING = ".kept", ".json"


@dataclass(frozen=True)
class Loss:
    """Something that is lost.

    Attributes
    ----------
    name: of a variable; empty where it is none.
    what: it is, in a noun or a line.
    why: in a sentence.
    """

    name: str
    what: str
    why: str


def losses(rows: Iterable[Mapping[str, Any]]) -> list[Loss]:
    """Of what a kernel tells."""
    return [
        Loss(*(" ".join(str(row.get(key) or "").split()) for key in ("name", "what", "why")))
        for row in rows
    ]


class Aside:
    """The files of one kernel of which something did not come back.

    Parameters
    ----------
    file: where its variables are saved, in the folder of this process.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._folder = file.parent.parent / _FOLDER

    def put(self, missing: Iterable[Loss]) -> None:
        """Take the file away from where it would be replaced.

        Raises
        ------
        OSError
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{self._file.stem}-{time.time_ns()}{_KEPT}"
        text = json.dumps([asdict(each) for each in missing])
        with new_file(path.with_suffix(_MISSING)) as note:
            note.write(text.encode())
        try:
            self._file.rename(path)
        except OSError:
            path.with_suffix(_MISSING).unlink()
            raise

    def told(self) -> list[dict[str, Any]]:
        """Each with its ``file``, ``bytes``, when it was ``saved``, and what is ``missing``."""
        found = []
        for path in self._paths():
            with suppress(OSError):
                status = path.stat()
                saved = datetime.fromtimestamp(status.st_mtime, timezone.utc)
                found.append(
                    {
                        "file": str(path),
                        "bytes": status.st_size,
                        "saved": timestamp(saved),
                        "missing": _missing(path),
                    }
                )
        return found

    def forget(self) -> None:
        """Remove them."""
        for path in self._paths():
            for each in (path, path.with_suffix(_MISSING)):
                with suppress(OSError):
                    each.unlink()

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._file.stem}-*{_KEPT}"))


def _missing(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.with_suffix(_MISSING).read_text())
        return [asdict(Loss(**row)) for row in rows]
    except (OSError, ValueError, TypeError):
        return []
