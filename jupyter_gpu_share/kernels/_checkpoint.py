"""How the state of a kernel is kept while its share is given back.

In place: the process lives on, without the GPU. Snapshot: the variables are written to a file of
the server, the process ends, and the next one gets them before any cell. What a release would lose
is known before anything is freed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .._threads import in_thread, to_the_end
from ..allocations import Kept
from ..engines.base import Engine
from ..errors import EngineError, GpuShareError, NotPossible
from ..idle import IdlePolicy
from ..relay import Activity, Relay
from ..sentences import say, words_of
from ..size import format_bytes
from . import _lost
from ._encryption import missing
from ._lost import LOST, Lost
from ._questions import LONG, Questions, amount, rows, text, texts
from ._transfer import Transfer
from ._unrestored import Aside, Loss, losses
from .saved import (
    Note,
    NotOursError,
    file_name,
    forget,
    forget_parts,
    losses_of,
    make_folder,
    settle,
    sweep,
)

__all__ = ["Keeper", "Look"]

_log = logging.getLogger(__name__)

#: Seconds until memory that was moved away has to be seen as free, and between two looks.
_FREE_PATIENCE, _FREE_INTERVAL = 15.0, 0.05
#: The line about what came back, which itself names only the first of many.
_LONGEST_LINE = 2000


@dataclass(frozen=True)
class Look:
    """What a kernel tells about itself.

    Attributes
    ----------
    background: what still works in it although no cell runs, in words; empty: nothing.
    kept: how a release would keep its state.
    why: a sentence, where it could not.
    """

    background: tuple[str, ...] = ()
    kept: Kept = field(default_factory=Kept)
    why: str = ""


@dataclass(frozen=True)
class Restored:
    """What a new process got.

    Attributes
    ----------
    line: for the user.
    missing: what of the file did not come back.
    """

    line: str
    missing: list[Loss]


@dataclass(frozen=True)
class _Survey:
    """What a snapshot would keep, and how far the kernel had been used by then."""

    use: tuple[int, int]
    found: dict[str, Any]


class Keeper:
    """Keeps one kernel's state. All methods but :meth:`discard` need the kernel paused.

    Parameters
    ----------
    folder: for snapshots; made where it is not there.
    policy: what the administrator allows.
    """

    def __init__(
        self, relay: Relay, engine: Engine, kernel_id: str, *, folder: Path, policy: IdlePolicy
    ) -> None:
        self._relay = relay
        self._engine = engine
        self._kernel_id = kernel_id
        self._kernel = Questions(relay, engine, kernel_id)
        #: Of the kernel; nothing is asked of one that would not understand.
        self.language = ""
        self._in_place = policy.in_place
        self._limit = policy.snapshot_limit
        self._patience = policy.snapshot_patience
        self._lifetime = policy.snapshot_lifetime
        self._encrypts = policy.snapshot_encryption
        self._transfer = Transfer(
            self._kernel, engine, kernel_id, limit=self._limit, encrypts=self._encrypts
        )
        self._file = folder / file_name(kernel_id)
        #: SHA-256 of what was saved last, in hexadecimal digits; empty: see beside the file.
        self._digest = ""
        #: All that the last look and the last saving have told of as lost.
        self._lost: list[Loss] = []
        self._promised = False
        #: Names of variables that the last look has told of as lost.
        self._may_go: list[str] = []
        self._surveyed: _Survey | None = None
        #: What the last saving has found that would not come back, as the kernel tells it.
        self._disproved: list[dict[str, Any]] = []
        #: Bytes of each GPU at most that are away with the process.
        self.moved = 0
        #: What the next cell says of earlier losses, and how many cells were done when the process
        #: was told that; None: it was not.
        self._told: list[Path] = []
        self._owed: list[str] = []
        self._done: int | None = None

    @property
    def _understands(self) -> bool:
        return self.language.lower().startswith("python")

    @property
    def saves_never(self) -> str:
        """Why nothing can ever be saved of this kernel, a sentence; empty: that may be."""
        return "" if self._understands else say("only-python-keeps")

    @property
    def has_snapshot(self) -> bool:
        """Whether there are variables for the next process of the kernel."""
        return os.path.lexists(self._file)

    @property
    def _aside(self) -> Aside:
        return Aside(self._file)

    @property
    def gone(self) -> bool:
        """Whether variables were saved for the next process, and their file is no longer there."""
        return self._promised and not self.has_snapshot

    def expect(self) -> None:
        """There are variables, which another server has saved."""
        self._promised = True

    @property
    def outlives(self) -> bool:
        """Whether the administrator lets saved variables wait for another server."""
        return self._lifetime > 0

    async def look(self, activity: Activity, *, ends: bool = False) -> Look:
        """What works in the background, and how the state would be kept. Changes nothing.

        Cancelling it interrupts the kernel, which answers then. What takes long to find out is
        not asked for again while the kernel is not used.

        Parameters
        ----------
        activity: what clients have done up to now.
        ends: the process cannot live on.
        """
        self._lost = []
        if not self._understands:
            return Look((), Kept(), say("only-python-keeps"))
        try:
            signs = await self._kernel.told("signs", interruptible=True)
        except GpuShareError as error:
            unknown = "what runs in the kernel cannot be seen"
            return Look((unknown,), Kept(), say("cannot-be-asked", why=words_of(error)))
        background = texts(signs.get("background"))
        vacate = signs.get("vacate")
        vacate = vacate if isinstance(vacate, dict) else {}
        detachable = not ends and self._in_place and self._engine.detachable(self._kernel_id)
        # A thread that calls CUDA meanwhile could hold Python's lock, and with it the way back.
        ways = ("nothing", "simulated") if background else ("nothing", "simulated", "cuda")
        if detachable and vacate.get("how") in ways:
            return Look(background, Kept("in-place", ()))
        why = text(vacate.get("why")) if detachable else ""
        kept, snag = await self._survey(background, (activity.cells_sent, activity.comms))
        return Look(background, kept, snag or why)

    async def _survey(self, background: Sequence[str], use: tuple[int, int]) -> tuple[Kept, str]:
        """What a snapshot would keep."""
        if self._encrypts and (lacks := await in_thread(missing)):
            return Kept(), lacks
        if self._surveyed is None or self._surveyed.use != use or background:
            self._surveyed, self._disproved = None, []
            try:
                found = await self._kernel.told("survey", patience=LONG, interruptible=True)
            except GpuShareError as error:
                return Kept(), say("cannot-be-saved", why=words_of(error))
            self._surveyed = _Survey(use, found)
        found = self._surveyed.found
        if why := text(found.get("why")):
            return Kept(), why
        size = found.get("bytes")
        if isinstance(size, int) and size > self._limit:
            return Kept(), say("too-large", size=size, limit=self._limit)
        gone = rows(found.get("lost"))
        gone += [row for row in self._disproved if row.get("missed")]
        self._may_go = [str(row.get("name")) for row in gone]
        lost = texts([_called(row) for row in gone])
        self._lost = losses(gone)
        self._lost += [Loss("", line, "It ends with the process.") for line in background]
        # What works in the background ends with the process.
        return Kept("snapshot", (*lost, *background)), ""

    # -- in place ----------------------------------------------------------------------------

    async def vacate(self) -> None:
        """Move the process off its GPUs, and make sure that their memory is free.

        Raises
        ------
        NotPossible: it could not; it is as before.
        """
        seen = await self._used() is not None
        try:
            moved = await self._kernel.told("vacate", patience=LONG)
            self.moved = amount(moved.get("most"))
            # One that has nothing on a GPU is listed nowhere; in containers none is.
            nothing = moved.get("how") == "nothing" or moved.get("proven") is True
            await self._free(listed=seen or nothing)
        except BaseException as error:
            await to_the_end(self.resume())
            if isinstance(error, GpuShareError):
                with suppress(GpuShareError):  # one that an older version has started knows no such
                    await self._kernel.told("failed", why=str(error))
                raise NotPossible(say("not-moved-away", why=words_of(error))) from error
            raise

    async def _free(self, *, listed: bool) -> None:
        """Wait until the engine sees no memory of the kernel on its GPUs.

        Drivers no longer list a process that was moved away: where it was ``listed`` before, that
        nothing is known of it any more says that it is gone.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + _FREE_PATIENCE
        while (used := await self._used()) or (used is None and not listed):
            if loop.time() > end:
                left = f"{format_bytes(used)} are in use" if used else "what is in use is not known"
                raise GpuShareError(f"{left} still")
            await asyncio.sleep(_FREE_INTERVAL)

    async def _used(self) -> int | None:
        """Bytes of the GPUs that the kernel is seen to use; None where that is not known."""
        usage = (await self._engine.usage(frozenset())).get(self._kernel_id)
        return usage.used_bytes if usage is not None else None

    async def resume(self) -> None:
        """Move the process back onto its GPUs; nothing where it is there.

        It is told of its share anew: that may be of another size by now.

        Raises
        ------
        GpuShareError: there is no room. It stays away.
        """
        if self._understands:
            limits = await self._engine.limits(self._kernel_id)
            await self._kernel.told("resume", patience=LONG, limits=dict(limits))
            self.moved = 0

    # -- limits ------------------------------------------------------------------------------

    async def limits(self) -> tuple[int | None, str]:
        """Bytes in use on the kernel's fullest GPU, and why its limits cannot be others.

        What it keeps for later use is freed first. None where that is not known; an empty text
        where other limits can be set.
        """
        if not self._understands:
            return None, say("only-python-limits")
        try:
            found = await self._kernel.told("limits", interruptible=True)
        except GpuShareError as error:
            return None, say("cannot-be-asked", why=words_of(error))
        used = found.get("used")
        return used if isinstance(used, int) else None, text(found.get("why"))

    async def limit(self, limits: Mapping[str, str | None]) -> None:
        """Set other limits in the kernel, which :meth:`Engine.limits` gives.

        Raises
        ------
        GpuShareError: it uses more than that, or could not be asked.
        """
        await self._kernel.told("limit", limits=dict(limits))

    # -- snapshot ----------------------------------------------------------------------------

    async def save(
        self,
        note: Note | None,
        *,
        lose: bool = False,
        patience: float | None = None,
        certain: bool = True,
    ) -> tuple[str, ...]:
        """Write the variables to the server's disk, but those that the last look said are lost.

        They are read back by a fresh process, so that what would not come back is known.

        Parameters
        ----------
        note: with which the next server may take them over; None: none may.
        lose: what would not come back may be lost.
        patience: seconds for reading back; those that the administrator gives where None.
        certain: nothing is saved where they cannot be read back in time; else they are all the
            same.

        Returns
        -------
        tuple: what would not come back, in words. Where it may not be lost, nothing is left, and
            the next look tells of it.

        Raises
        ------
        NotPossible: they could not be written or read back, or more would be lost. Nothing is left.
        """
        before = len(self._disproved)
        if patience is None:
            patience = self._patience
        how = {"lose": lose, "certain": certain, "seconds": patience}
        partial = self._file.with_suffix(".part")
        try:
            folder = await in_thread(make_folder, self._file.parent)
            self._file, partial = folder / self._file.name, folder / partial.name
            await in_thread(sweep, folder, self._lifetime)
            digest = await self._transfer.fetch(partial, lambda path: self._save(path, how))
            new = [row for row in self._disproved[before:] if row.get("missed")]
            lost = tuple(map(_called, new))
            self._lost += losses(new)
            if not digest:
                return lost
            if note is not None:
                await in_thread(note.write, self._file, digest)
            await in_thread(settle, partial, self._file)
            await self.rests_no_more()
            self._digest, self._promised = digest, True
            return lost
        except GpuShareError as error:
            raise NotPossible(say("not-saved", why=words_of(error))) from error
        except OSError as error:
            raise NotPossible(say("not-saved", why=f"{error.strerror}.")) from error
        finally:
            await to_the_end(in_thread(forget_parts, self._file))

    def written(self) -> int:
        """Bytes of the file that is being written, as far as it is on this machine. Blocks."""
        parts = self._file.parent.glob(self._file.with_suffix(".part").name + "*")
        sizes = [0]
        for part in parts:
            with suppress(OSError):  # it has just been finished
                sizes.append(part.stat().st_size)
        return max(sizes)

    async def _save(self, path: str, how: Mapping[str, Any]) -> str:
        """Have the kernel write the file; the digest of its content.

        It is empty where there is no file: more would not come back than may be lost. What would
        not is noted.
        """
        told = await self._kernel.told(
            "save",
            patience=LONG + how["seconds"],
            interruptible=True,
            path=path,
            limit=self._limit,
            allowed=self._may_go,
            without=self._disproved,
            **how,
        )
        self._disproved = rows(told.get("disproved"))
        if why := text(told.get("unproven")):
            _log.warning("It is not known whether all that was saved comes back: %s", why)
        return str(told.get("digest")) if "variables" in told else ""

    async def load(self) -> Restored:
        """Give the variables to a new process.

        Raises
        ------
        GpuShareError: they could not be given. They are still kept.
        """
        try:
            digest = await in_thread(self._expected)
            return await self._transfer.give(self._file, lambda path: self._restore(path, digest))
        except NotOursError as error:
            raise GpuShareError(f"{self._file} is not loaded: {error}.") from error
        except OSError as error:
            raise GpuShareError(f"{self._file} cannot be read: {error.strerror}.") from error

    def _expected(self) -> str:
        """The digest of what was saved for this kernel, here or by an earlier server."""
        return self._digest or Note.beside(self._file)[1]

    async def _restore(self, path: str, digest: str) -> Restored:
        # The kernel compares the digest of what it reads: nobody can change it in between.
        told = await self._kernel.told("restore", patience=LONG, path=path, digest=digest)
        missing, line = losses(rows(told.get("failed"))), text(told.get("line"), _LONGEST_LINE)
        if missing or self._lost:
            line += f" All of it: jupyter gpu-share kept {self._kernel_id[:8]}"
        return Restored(line, missing)

    async def present(self) -> bool:
        """Whether the kernel has this package's files, without which it can be asked nothing."""
        if not self._understands:
            return False
        try:
            return "version" in await self._kernel.told("present")
        except GpuShareError:
            return False

    async def make_subshells(self, ids: Sequence[str]) -> None:
        """Have a new process know the subshells that pages of the last one still use."""
        with suppress(GpuShareError):  # without them pages reach the main shell, or ask anew
            made = (await self._kernel.ask("subshells", ids=list(ids))).result
            self._relay.note_subshells(made if isinstance(made, list) else ())

    async def loaded(self, restored: Restored) -> None:
        """The process has its variables: their file goes, unless something of it is missing."""
        if restored.missing:
            try:
                await in_thread(self._aside.put, restored.missing)
            except OSError as error:  # it stays where it is, until the next release
                _log.warning("Saved variables cannot be put aside: %s", error)
                return
        await in_thread(self.discard)

    async def report(self) -> dict[str, Any]:
        """All that was ``lost``, and the files that were put ``aside``, as plain data."""
        aside = await in_thread(self._aside.told)
        return {"lost": [asdict(each) for each in self._lost], "aside": aside}

    async def forget_aside(self) -> None:
        """Remove the files of which something did not come back."""
        await in_thread(self._aside.forget)

    # -- what is lost ------------------------------------------------------------------------

    async def rests(self, note: Note | None) -> None:
        """The process is about to live on without its share.

        Should its server be killed meanwhile, the next kernel of the notebook says what is lost.
        """
        if note is not None and self._engine.ends_with_server:
            await self.note_loss(note, _lost.rests())

    async def rests_no_more(self) -> None:
        """It has its share again, or its variables are saved."""
        with suppress(OSError):
            await in_thread(self._file.with_suffix(LOST).unlink)

    async def note_loss(self, note: Note, line: str) -> None:
        """Have the next server's kernel of the notebook tell its user a line."""
        if note.path is None:
            return
        lost = Lost(note.root, note.path, line)
        try:
            folder = await in_thread(make_folder, self._file.parent)
            self._file = folder / self._file.name
            await in_thread(lost.write, self._file)
        except (OSError, EngineError) as error:
            _log.warning("What %s may lose cannot be noted: %s", note.path, error)

    async def say_losses(self, note: Note | None) -> None:
        """Have the first cell of a new kernel say what earlier ones of its notebook have lost."""
        self._told, self._done = [], self._relay.activity.cells_done
        try:
            if note is not None and note.path is not None:
                self._owed += await self._engine.losses(note.path)
            for line in self._owed:
                await self._kernel.ask("say", line=line)
            if note is None or note.path is None:
                return
            where = (self._file.parent, note.root, note.path, self._lifetime)
            for told, line in await in_thread(losses_of, *where):
                await self._kernel.ask("say", line=line)
                self._told.append(told)
        except (OSError, GpuShareError) as error:
            _log.warning("What kernel %s has lost is not said: %s", self._kernel_id, error)

    @property
    def owes_words(self) -> bool:
        """Whether no cell has said yet what was lost before: another process has to say it."""
        return bool(self._told or self._owed)

    def owe(self, line: str) -> None:
        """Have the first cell of the next process say a line: nobody may see it before."""
        self._owed.append(line)
        self._done = None

    def have_said(self, activity: Activity) -> list[Path]:
        """What a cell has said by now, for :func:`was_told`; each once."""
        if self._done is None or activity.cells_done <= self._done:
            return []
        said, self._told, self._owed, self._done = self._told, [], [], None
        return said

    def discard(self) -> None:
        """Forget the variables that were kept for the next process."""
        self._promised, self._digest = False, ""
        forget(self._file)

    async def renote(self, note: Note) -> None:
        """Have the next server know of another size or path, where variables are kept."""
        await in_thread(self._renote_loss, note)
        if await in_thread(lambda: self.has_snapshot):
            with suppress(NotOursError):  # told when it is to be loaded
                await in_thread(lambda: note.write(self._file, self._expected()))

    def _renote_loss(self, note: Note) -> None:
        lost = Lost.read(self._file.with_suffix(LOST))
        if lost is None or note.path is None:
            return
        try:  # since when it says is as true as before
            replace(lost, root=note.root, path=note.path).write(self._file)
        except (OSError, EngineError) as error:
            _log.warning("What %s may lose cannot be noted: %s", note.path, error)


def _called(row: Mapping[str, Any]) -> str:
    """What is lost, as the kernel tells it, in a user's words."""
    return text(f"{row.get('what')} `{row.get('name')}`")
