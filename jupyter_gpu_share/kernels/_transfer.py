"""How the file with a kernel's variables gets from the kernel to the server's disk, and back.

Where both see one disk the kernel writes and reads the file itself; where they do not, it comes in
messages. Where it is to be encrypted, what is clear stays in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeVar

from .._threads import in_thread, to_the_end
from ..engines.base import Engine
from ..errors import GpuShareError
from ..kernel_side.gpu_share_kernel.digests import Digest
from ..size import format_bytes
from ._encryption import Encrypted, decrypted, is_encrypted, make_workplace
from ._private import new_file, open_file
from ._questions import LONG, Questions

__all__ = ["Transfer"]

#: Bytes of one message with a piece of a file.
_PIECE = 8 * 2**20

_T = TypeVar("_T")


class Transfer:
    """Moves one kernel's file.

    Parameters
    ----------
    limit: bytes of a file at most.
    encrypts: whether what is on disk is to be encrypted. What is there is read either way.
    """

    def __init__(
        self, kernel: Questions, engine: Engine, kernel_id: str, *, limit: int, encrypts: bool
    ) -> None:
        self._kernel = kernel
        self._engine = engine
        self._kernel_id = kernel_id
        self._limit = limit
        self._encrypts = encrypts

    async def fetch(self, target: Path, save: Callable[[str], Awaitable[str]]) -> str:
        """Have the kernel ``save``, and the file be at ``target``; the digest of what is clear.

        Parameters
        ----------
        save: has the kernel write a file at a path that it sees; its digest, or an empty text where
            it wrote none.

        Raises
        ------
        GpuShareError: it could not be saved, or did not arrive.
        OSError: it could not be written here.
        """
        if not self._engine.shares_files:
            return await self._in_pieces(target, save)
        if not self._encrypts:
            return await save(str(target))
        async with _in_memory() as folder:
            clear = folder / target.name
            digest = await save(str(clear))
            if digest:
                await to_the_end(in_thread(self._encrypt, clear, target))
            return digest

    def _encrypt(self, source: Path, target: Path) -> None:
        with open_file(source) as clear, new_file(target) as file:
            sink = Encrypted(file, self._kernel_id)
            for data in _pieces(clear):
                sink.write(data)
            sink.close()

    async def _in_pieces(self, target: Path, save: Callable[[str], Awaitable[str]]) -> str:
        async with self._scratch() as scratch:
            digest = await save(scratch)
            if not digest:
                return digest
            arrived = Digest()
            with new_file(target) as file:
                start, sink = 0, Encrypted(file, self._kernel_id) if self._encrypts else file
                while True:
                    piece = await self._kernel.ask(
                        "read", patience=LONG, path=scratch, start=start, length=_PIECE
                    )
                    data = b"".join(piece.buffers)
                    if not data:
                        if arrived.hexdigest() != digest:
                            raise GpuShareError("the file did not arrive as it was sent")
                        await in_thread(sink.close)
                        return digest
                    start += len(data)
                    if start > self._limit + _PIECE:
                        raise GpuShareError(f"more than {format_bytes(self._limit)} are not kept")
                    await in_thread(sink.write, data)
                    await in_thread(arrived.update, data)

    async def give(self, source: Path, restore: Callable[[str], Awaitable[_T]]) -> _T:
        """Have the kernel ``restore`` from a file at a path that it sees; what that gives.

        Raises
        ------
        GpuShareError: it could not be given.
        NotOursError, OSError: it cannot be read here.
        """
        with await in_thread(open_file, source) as file:
            encrypted = await in_thread(is_encrypted, file)
            pieces = decrypted(file, self._kernel_id) if encrypted else _pieces(file)
            if not self._engine.shares_files:
                async with self._scratch() as scratch:
                    while data := await in_thread(next, pieces, b""):
                        await self._kernel.ask(
                            "append", buffers=[data], patience=LONG, path=scratch
                        )
                    return await restore(scratch)
            if not encrypted:
                return await restore(str(source))
            async with _in_memory() as folder:
                clear = folder / source.name
                await to_the_end(in_thread(_write, clear, pieces))
                return await restore(str(clear))

    @asynccontextmanager
    async def _scratch(self) -> AsyncIterator[str]:
        """The path of a file beside the kernel, which goes at the end."""
        scratch = (await self._kernel.ask("scratch")).result
        try:
            yield scratch
        finally:
            with suppress(GpuShareError):
                await self._kernel.ask("remove", path=scratch)


@asynccontextmanager
async def _in_memory() -> AsyncIterator[Path]:
    folder = await in_thread(make_workplace)
    try:
        yield folder
    finally:
        await to_the_end(in_thread(rmtree, folder, ignore_errors=True))


def _pieces(file: Any) -> Iterator[bytes]:
    while data := file.read(_PIECE):
        yield data


def _write(path: Path, pieces: Iterator[bytes]) -> None:
    with new_file(path) as file:
        for piece in pieces:
            file.write(piece)
