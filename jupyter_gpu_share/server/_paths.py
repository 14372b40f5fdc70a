"""Where the notebook of each kernel is now: it may be renamed or moved while the kernel runs.

The sizes that were chosen for notebooks follow them, whether they have a kernel or not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from jupyter_server.utils import ensure_async
from tornado import web

from .._threads import in_thread, stopped

if TYPE_CHECKING:
    from ..runtime import Runtime

__all__ = ["NotebookPaths", "within"]

_log = logging.getLogger(__name__)

_CONTENTS = "https://events.jupyter.org/jupyter_server/contents_service/v1"
#: What a session manager calls when a session is made, and when it gets another path or kernel.
_WRITES = ("save_session", "update_session")
_MAX_PATH = 4096


def within(text: object) -> str | None:
    """A path within the folder that the server shows, without a slash before it.

    None where it is none: empty, leading out of the folder, too long, or not printable.
    """
    if not isinstance(text, str) or len(text) > _MAX_PATH or not text.isprintable():
        return None
    path = PurePosixPath(text.strip("/"))
    return None if ".." in path.parts or not path.parts else str(path)


@dataclass(frozen=True)
class _Renamed:
    """A file or folder has another path."""

    old: str
    new: str


@dataclass(frozen=True)
class _Copied:
    """A file was copied."""

    source: str
    new: str


@dataclass(frozen=True)
class _Deleted:
    """A file or folder is gone."""

    path: str


@dataclass(frozen=True)
class _Outdated:
    """A session's path that a rename has overtaken, until the session itself is told.

    Attributes
    ----------
    session: id of the session; None where the kernel had none yet.
    """

    session: str | None
    told: str
    present: str


class NotebookPaths:
    """Tells the runtime of each kernel whose notebook has another path.

    A kernel's path is that of its first session. Sessions are told by the page that shows the
    notebook; where no page is open, the rename of the file or of a folder above it is what counts.

    Works on the server's event loop.
    """

    def __init__(self, serverapp: Any, runtime: Runtime) -> None:
        self._runtime = runtime
        self._sessions = serverapp.session_manager
        self._manager = serverapp.kernel_manager
        self._logger = serverapp.event_logger
        self._outdated: dict[str, _Outdated] = {}
        #: What became of files, and ids of sessions that were written, as they came.
        self._news: asyncio.Queue[_Renamed | _Copied | _Deleted | str] = asyncio.Queue()
        self._logger.add_listener(schema_id=_CONTENTS, listener=self._contents_changed)
        self._undo = [self._observe(name) for name in _WRITES if hasattr(self._sessions, name)]
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop following. Idempotent."""
        self._logger.remove_listener(schema_id=_CONTENTS, listener=self._contents_changed)
        while self._undo:
            self._undo.pop()()
        await stopped(self._task)

    # -- what is heard of --------------------------------------------------------------------

    async def _contents_changed(self, logger: Any, schema_id: str, data: dict[str, Any]) -> None:
        """Called by jupyter_events, as a task, for each action of the contents manager."""
        old, new = within(data.get("source_path")), within(data.get("path"))
        action = data.get("action")
        if action == "rename" and old and new:
            self._news.put_nowait(_Renamed(old, new))
        elif action == "copy" and old and new:
            self._news.put_nowait(_Copied(old, new))
        elif action == "delete" and new:
            self._news.put_nowait(_Deleted(new))

    def _observe(self, name: str) -> Callable[[], None]:
        """Hear of each call of a method of the session manager; the result undoes it.

        Session managers tell nobody of what is written, and asking them now and then would show a
        path that is gone.
        """
        method = getattr(self._sessions, name)

        async def observed(session_id: str, *arguments: Any, **options: Any) -> Any:
            written = await ensure_async(method(session_id, *arguments, **options))
            self._news.put_nowait(session_id)
            return written

        setattr(self._sessions, name, observed)

        def undo() -> None:
            # Somebody else may have put a method of theirs over this one.
            if vars(self._sessions).get(name) is observed:
                delattr(self._sessions, name)

        return undo

    # -- what follows ------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            news = await self._news.get()
            try:
                if isinstance(news, _Renamed):
                    await self._choose("moved", news.old, news.new)
                    await self._renamed(news)
                elif isinstance(news, _Copied):
                    await self._choose("copied", news.source, news.new)
                elif isinstance(news, _Deleted):
                    await self._choose("deleted", news.path)
                elif session := await self._session(session_id=news):
                    await self._compare(session["kernel"]["id"])
            except Exception:
                # The next news is followed all the same.
                _log.exception("Where a kernel's notebook is now could not be seen")

    async def _choose(self, what: str, *paths: str) -> None:
        """Have the sizes that were chosen follow: a method of the choices, with its paths."""
        follow = getattr(self._runtime.choices, what)
        await in_thread(follow, str(Path(self._manager.root_dir)), *paths)

    async def _renamed(self, renamed: _Renamed) -> None:
        kernels = list(self._runtime.kernels)
        self._outdated = {key: row for key, row in self._outdated.items() if key in kernels}
        for kernel_id in kernels:
            session = await self._session(kernel_id=kernel_id)
            row = self._runtime.table.get(kernel_id)
            told = _path_of(session) if session else row and row.path
            if not told:
                continue
            present = _moved(self._present(kernel_id, session, told), renamed)
            if present is not None:
                session_id = session["id"] if session else None
                self._outdated[kernel_id] = _Outdated(session_id, told, present)
                await self._tell(kernel_id, present)
                if session is not None:
                    self._tell_next_process(kernel_id, present)

    async def _compare(self, kernel_id: str) -> None:
        session = await self._session(kernel_id=kernel_id)
        told = _path_of(session) if session else None
        if told:
            await self._tell(kernel_id, self._present(kernel_id, session, told))

    def _present(self, kernel_id: str, session: Any, told: str) -> str:
        """Where that is now which a session, or a kernel without one, was told to be at."""
        known = self._outdated.get(kernel_id)
        if known is None or known.told != told:
            return told
        same = session is None or known.session in (None, session["id"])
        return known.present if same else told

    async def _tell(self, kernel_id: str, path: str) -> None:
        row = self._runtime.table.get(kernel_id)
        if row is not None and row.path != path and kernel_id in self._runtime.kernels:
            if row.path is not None:
                # A notebook that is saved under another name starts there as it did here.
                await self._choose("copied", row.path, path)
            await self._runtime.moved(kernel_id, path)

    def _tell_next_process(self, kernel_id: str, path: str) -> None:
        """Have a restart tell the kernel the path, as it does where a page tells the session."""
        env = self._sessions.get_kernel_env(path, PurePosixPath(path).name)
        told = {"JPY_SESSION_NAME": env["JPY_SESSION_NAME"]}
        self._manager.update_env(kernel_id=kernel_id, env=told)

    async def _session(self, **which: str) -> Any:
        """The first session with that id or that kernel; None where there is none."""
        try:
            return await ensure_async(self._sessions.get_session(**which))
        except web.HTTPError as error:
            if error.status_code != 404:
                raise
            return None


def _path_of(session: Any) -> str | None:
    """What a kernel is known by: the notebook, or the name of a console within its folder."""
    path, name = within(session["path"]), within(session["name"])
    if path is None or name is None or session["type"] == "notebook":
        return path
    return str(PurePosixPath(path).parent / name)


def _moved(path: str, renamed: _Renamed) -> str | None:
    """The new path of what is, or lies below, what was renamed; None for anything else."""
    if path == renamed.old:
        return renamed.new
    if path.startswith(renamed.old + "/"):
        return renamed.new + path[len(renamed.old) :]
    return None
