"""Sizes that were chosen for notebooks and consoles, by their path."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["SizeChoices"]

_log = logging.getLogger(__name__)

Choices = dict[str, str]


class SizeChoices:
    """The size that the next kernel of a notebook starts with. Safe to use from any thread.

    Kept in a file for each folder that servers show, so that a choice outlives the server and the
    page, and is the same in every browser. Where the file cannot be written, choices last as long
    as the process. Two servers of one folder that write at one moment: the later one counts.

    All methods block for a small file. Paths are within the folder, without a slash before them.
    The empty path stands for all for which nobody chose a size: a user's own default.

    Parameters
    ----------
    folder: where the files lie; made when it is first needed.
    limit: choices that are kept for one folder; the oldest give way.
    """

    def __init__(self, folder: Path, *, limit: int = 1000) -> None:
        self._folder = folder
        self._limit = limit
        self._lock = threading.Lock()
        #: What could not be written, by the folder that is shown.
        self._unwritten: dict[str, Choices] = {}

    def get(self, root: str, path: str) -> str | None:
        """The size that was chosen for a path below ``root``; None where nobody chose one."""
        with self._lock:
            return self._read(root).get(path)

    def set(self, root: str, path: str, size: str | None) -> None:
        """Remember a choice; None forgets it."""

        def change(choices: Choices) -> Choices:
            others = {key: one for key, one in choices.items() if key != path}
            return others if size is None else {**others, path: size}

        self._change(root, change)

    def moved(self, root: str, old: str, new: str) -> None:
        """A file or folder has another path: what was chosen for it, or below it, follows."""

        def change(choices: Choices) -> Choices:
            there = {key: one for key, one in choices.items() if _below(key, new) is None}
            return {
                key if (rest := _below(key, old)) is None else new + rest: one
                for key, one in there.items()
            }

        self._change(root, change)

    def copied(self, root: str, source: str, new: str) -> None:
        """A file or folder was copied: the copy starts with the same size."""

        def change(choices: Choices) -> Choices:
            copies = {
                new + rest: one
                for key, one in choices.items()
                if (rest := _below(key, source)) is not None
            }
            return {**choices, **copies}

        self._change(root, change)

    def deleted(self, root: str, path: str) -> None:
        """A file or folder is gone: another that is made under its path has no choice."""
        self._change(
            root, lambda old: {key: one for key, one in old.items() if _below(key, path) is None}
        )

    # -- the files ---------------------------------------------------------------------------

    def _change(self, root: str, change: Callable[[Choices], Choices]) -> None:
        with self._lock:
            before = self._read(root)
            after = change(before)
            if list(after.items()) == list(before.items()):
                return
            kept = dict(list(after.items())[-self._limit :])
            try:
                self._write(root, kept)
                self._unwritten.pop(root, None)
            except OSError as error:
                if root not in self._unwritten:
                    _log.warning("Chosen sizes are forgotten when this server ends: %s", error)
                self._unwritten[root] = kept

    def _file(self, root: str) -> Path:
        return self._folder / f"{hashlib.sha256(root.encode()).hexdigest()[:16]}.json"

    def _read(self, root: str) -> Choices:
        if root in self._unwritten:
            return self._unwritten[root]
        try:
            found = json.loads(self._file(root).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {key: one for key, one in found.items() if isinstance(one, str)}

    def _write(self, root: str, choices: Choices) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # A reader sees the file before or the one after, and only its user can read it.
        handle, name = tempfile.mkstemp(prefix="new-", dir=self._folder)
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(choices, file)
            Path(name).replace(self._file(root))
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise


def _below(path: str, folder: str) -> str | None:
    """What of ``path`` comes after ``folder``: empty for itself, None where it is elsewhere."""
    if path == folder:
        return ""
    return path[len(folder) :] if path.startswith(folder + "/") else None
