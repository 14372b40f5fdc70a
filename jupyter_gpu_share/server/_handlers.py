"""The REST routes. ``openapi.yaml`` beside this file describes them."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.utils import ensure_async
from tornado import web

from .._threads import in_thread
from .._version import __version__
from ..allocations import Allocation, timestamp
from ..engines.user_limits import UserLimit
from ..errors import GpuShareError, NotPossible, SizeError
from ..sentences import say, sentences_of, words_of
from ..size import SIZE_VARIABLE, Request, Size, size_in_kernelspec, size_in_notebook
from ._handler import SHOW_QUEUE, GpuShareHandler, Refused, path_of, told, uuid_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..engines.base import Capacity

__all__ = ["ROUTES"]

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)

#: What the administrator's sizes say of all kernels of a server together.
_TOTALS = frozenset({"total-memory-at-most", "total-gpus-at-most"})


class StatusHandler(GpuShareHandler):
    """``GET gpu-share/status``"""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """The GPUs with what is free, and how this server's kernels stand."""
        gpus: list[Capacity] = []
        turns: dict[str, datetime] = {}
        limits: Sequence[UserLimit] = ()
        problem = queue = next_release = None
        try:
            if self.elsewhere is not None:
                raise NotPossible(self.elsewhere)
            gpus = await self.runtime.capacity()
            limits = await self.runtime.user_limits()
            if self.settings[SHOW_QUEUE]:
                queue = _waiting(await self.runtime.machine())
            next_release, turns = await self.runtime.outlook()
        except GpuShareError as error:
            problem = words_of(error)
        rows = self.runtime.table.all()
        self.answer(
            {
                "version": __version__,
                "engine": self.runtime.engine_name,
                "healthy": problem is None,
                "problem": problem,
                "problem_sentences": sentences_of(problem or ""),
                "simulated": any(gpu.simulated for gpu in gpus),
                "gpus": [_gpu(gpu) for gpu in gpus],
                "kernels": dict(Counter(row.state.value for row in rows)),
                "queue": queue,
                "next_release": timestamp(next_release),
                "turns": {key: timestamp(at) for key, at in turns.items()},
                "limits": [each.to_json() for each in limits],
            }
        )


class SizesHandler(GpuShareHandler):
    """``GET gpu-share/sizes``"""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """The offered sizes, and which of them can be had now, by a kernel or by a new one."""
        policy = self.runtime.policy
        asked = self.get_query_argument("kernel_id", "")
        kernel_id = self.known(asked).kernel_id if asked else None
        if self.elsewhere is None:
            offers, gpus = await asyncio.gather(self.runtime.offers(kernel_id), self._gpus())
        else:
            offers, gpus = [(offer, self.elsewhere) for offer in policy.offers()], []
        sizes = [
            {
                **offer.to_json(),
                "available": not why,
                "why": why,
                "why_sentences": sentences_of(why or ""),
                "over_limit": _is_over_limit(why or ""),
                "memory_bytes": _memory(offer.size, gpus),
            }
            for offer, why in offers
        ]
        default = next((str(offer.size) for offer, _ in offers if offer.default), None)
        self.answer(
            {
                "sizes": sizes,
                "kernelspecs": sorted(await self.kernelspecs()),
                "default": default,
                "minimum": policy.minimum or None,
                "maximum": policy.maximum or None,
                "max_devices": policy.max_devices,
                "only_offered": policy.only_offered,
            }
        )

    async def _gpus(self) -> list[Capacity]:
        try:
            return await self.runtime.gpus()
        except GpuShareError:
            return []  # each offer says what is wrong


def _is_over_limit(why: str) -> bool:
    """Whether a size is refused by a limit: a kernel that asks for it does not even wait."""
    codes = {str(sentence["code"]) for sentence in sentences_of(why)}
    return bool(codes & _TOTALS) or any(code.startswith("limit-") for code in codes)


class RequestHandler(GpuShareHandler):
    """``PUT gpu-share/requests/<kernel id>``"""

    @web.authenticated
    @authorized
    @told
    async def put(self, kernel_id: str) -> None:
        """Remember the size for a kernel that is about to be started with this id."""
        kernel_id = uuid_of(kernel_id)
        body = self.body({"size": str, "path": str, "name": str})
        if "size" not in body:
            raise web.HTTPError(400, log_message="The field 'size' is missing.")
        if self.elsewhere is not None:
            raise NotPossible(self.elsewhere)
        if "name" in body:
            await self.check_kernelspec(body["name"])
        if kernel_id in self.runtime.kernels or kernel_id in self.kernel_manager:
            raise NotPossible(say("runs-already"))
        size = self.runtime.policy.check(body["size"])
        self.runtime.requests.put(kernel_id, Request(size, path_of(body.get("path"))))
        self.answer({"kernel_id": kernel_id, "size": str(size)})


class ChoicesHandler(GpuShareHandler):
    """``gpu-share/choices``"""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """What the next kernel of a notebook or console starts with."""
        path = path_of(self.get_query_argument("path", "")) or ""
        chosen = await in_thread(self.runtime.choices.get, self.root, path)
        specs = await self.kernelspecs()
        defaults = await self._defaults(path, specs)
        fixed = {name: size for name, size in defaults.items() if _named(specs[name])}
        self.answer({"path": path, "size": chosen, "defaults": defaults, "fixed": fixed})

    @web.authenticated
    @authorized
    @told
    async def put(self) -> None:
        """Choose that, where a kernel of that size could ever start; or only ask whether."""
        body = self.body(
            {"path": str, "size": (str, type(None)), "kernelspec": str, "dry_run": bool}
        )
        path, dry = body.get("path"), body.get("dry_run", False)
        path = path and path_of(path)
        if "size" not in body or (path is None and not dry):
            raise web.HTTPError(400, log_message="Name a path and a size, or ask with dry_run.")
        if self.elsewhere is not None:
            raise NotPossible(self.elsewhere)
        if "kernelspec" in body:
            await self._check_fixed(body["kernelspec"], body["size"])
        size = why = None
        if body["size"] is not None:
            checked = self.runtime.policy.check(body["size"])
            await self.runtime.check_possible(checked)
            size, why = str(checked), await self.runtime.fits(None, checked)
        if not dry:
            await self.remember(path, size)
        said = sentences_of(why or "")
        self.answer({"path": path, "size": size, "why": why, "why_sentences": said})

    async def _check_fixed(self, name: str, size: str | None) -> None:
        """Refuse a kernelspec without a share, and a size that is not the one that it names."""
        spec = await self.check_kernelspec(name)
        named = size_in_kernelspec(spec.metadata, spec.env)
        if size and named and Size.parse(named) != Size.parse(size):
            raise NotPossible(say("kernelspec-names-size", name=repr(name), size=named))

    async def _defaults(self, path: str, specs: dict[str, Any]) -> dict[str, str]:
        """What kernels get whose size nobody chose, by kernelspec, as the provisioner has it."""
        runtime = self.runtime
        hint: str | None = None
        if path:
            hint = await in_thread(size_in_notebook, Path(self.root, path))
        if not hint:
            hint = await in_thread(runtime.choices.get, self.root, "")
        with suppress(SizeError):
            hint = hint or str(runtime.policy.default_size())
        configured = runtime.config.get("GpuShareProvisioner", {}).get("size", "")
        found = {}
        for name, spec in specs.items():
            text = os.environ.get(SIZE_VARIABLE) or _named(spec) or configured or hint
            with suppress(SizeError):
                found[name] = str(Size.parse(str(text or "")))
        return found


class AllocationsHandler(GpuShareHandler):
    """``GET gpu-share/allocations``"""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """All kernels of this server."""
        self.answer([row.to_json() for row in self.runtime.table.all()])


class AllocationHandler(GpuShareHandler):
    """``gpu-share/allocations/<kernel id>``"""

    @web.authenticated
    @authorized
    async def get(self, kernel_id: str) -> None:
        """One kernel."""
        self.answer(self.known(kernel_id).to_json())

    @web.authenticated
    @authorized
    @told
    async def patch(self, kernel_id: str) -> None:
        """Change the size, or say what that would keep, or keep the share for a time."""
        row = self.known(kernel_id)
        flags = dict.fromkeys(("lose_variables", "restart", "dry_run"), bool)
        body = self.body({"size": str, **flags, "keep_until": (str, type(None))})
        if not {"size", "keep_until"} & set(body):
            raise web.HTTPError(400, log_message="Name a size, or a time in keep_until.")
        if body.get("dry_run", False):
            if set(body) != {"size", "dry_run"}:
                raise web.HTTPError(400, log_message="Only a change of size can be a dry_run.")
            size = self.runtime.policy.check(body["size"])
            kept = await self.runtime.kept_by_change(row.kernel_id, size)
            self.answer(replace(self.known(row.kernel_id), kept=kept).to_json())
            return
        # First what can be taken back: a request that is refused changes nothing.
        if "keep_until" in body:
            until = None if body["keep_until"] is None else _moment(body["keep_until"])
            await self.runtime.keep(row.kernel_id, until)
        if "size" in body:
            try:
                # `restart` was the name of it here before.
                lose = body.get("lose_variables", False) or body.get("restart", False)
                size = await self._resize(row, body["size"], lose_variables=lose)
                await self.remember(self.known(row.kernel_id).path, str(size))
            except BaseException:
                if "keep_until" in body:
                    with suppress(NotPossible):  # the kernel has ended meanwhile
                        await self.runtime.keep(row.kernel_id, row.keep_until)
                raise
        self.answer(self.known(row.kernel_id).to_json())

    async def _resize(self, row: Allocation, text: str, *, lose_variables: bool) -> Size:
        size = self.runtime.policy.check(text)
        if str(size) == row.size:
            return size
        if await self.runtime.change_size(row.kernel_id, size, lose_variables=lose_variables):
            return size
        if not lose_variables:
            raise NotPossible(say("resize-would-restart", size=size))
        await self.runtime.resize(row.kernel_id, size)
        manager: Any = self.kernel_manager
        await ensure_async(manager.restart_kernel(row.kernel_id))
        return size


class ReleaseHandler(GpuShareHandler):
    """``POST gpu-share/allocations/<kernel id>/release``"""

    @web.authenticated
    @authorized
    @told
    async def post(self, kernel_id: str) -> None:
        """Give the share back. Where that loses variables, only if the request allows it."""
        row = self.known(kernel_id)
        body = self.body({"lose_variables": bool, "dry_run": bool})
        if body.get("dry_run", False):
            kept = await self.runtime.kept_by_release(row.kernel_id)
            self.answer(replace(self.known(row.kernel_id), kept=kept).to_json())
            return
        lose = body.get("lose_variables", False)
        self.answer((await self.runtime.release(row.kernel_id, lose_variables=lose)).to_json())


class WakeHandler(GpuShareHandler):
    """``POST gpu-share/allocations/<kernel id>/wake``"""

    @web.authenticated
    @authorized
    @told
    async def post(self, kernel_id: str) -> None:
        """Ask for a share again, as running a cell does."""
        row = self.known(kernel_id)
        self.body({})
        self.answer((await self.runtime.wake(row.kernel_id)).to_json())


class KeptHandler(GpuShareHandler):
    """``GET`` and ``DELETE`` of ``gpu-share/allocations/<kernel id>/kept``"""

    @web.authenticated
    @authorized
    @told
    async def get(self, kernel_id: str) -> None:
        """All that was lost, and the files of which something did not come back."""
        self.answer(await self.runtime.kept(self.known(kernel_id).kernel_id))

    @web.authenticated
    @authorized
    @told
    async def delete(self, kernel_id: str) -> None:
        """Remove those files."""
        self.answer(await self.runtime.kept(self.known(kernel_id).kernel_id, forget=True))


class HistoryHandler(GpuShareHandler):
    """``GET gpu-share/history/<kernel id>``"""

    @web.authenticated
    @authorized
    @told
    async def get(self, kernel_id: str) -> None:
        """What a kernel held and used over the last hour, and its GPU-hours."""
        self.answer(await self.runtime.history(self.known(kernel_id).kernel_id))


_ID = r"(?P<kernel_id>[^/]+)"
ROUTES: list[tuple[str, type[GpuShareHandler]]] = [
    (r"/gpu-share/status", StatusHandler),
    (r"/gpu-share/sizes", SizesHandler),
    (r"/gpu-share/choices", ChoicesHandler),
    (rf"/gpu-share/requests/{_ID}", RequestHandler),
    (r"/gpu-share/allocations", AllocationsHandler),
    (rf"/gpu-share/allocations/{_ID}", AllocationHandler),
    (rf"/gpu-share/allocations/{_ID}/release", ReleaseHandler),
    (rf"/gpu-share/allocations/{_ID}/wake", WakeHandler),
    (rf"/gpu-share/allocations/{_ID}/kept", KeptHandler),
    (rf"/gpu-share/history/{_ID}", HistoryHandler),
]


def _moment(text: str) -> datetime:
    """A moment to come, in UTC, to the microsecond."""
    found = _RFC3339.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        day, clock, fraction, zone = found.groups()
        micro = (fraction or "")[:6].ljust(6, "0")
        zone = "+00:00" if zone in "Zz" else zone
        moment = datetime.fromisoformat(f"{day}T{clock}.{micro}{zone}").astimezone(timezone.utc)
    except (ValueError, OverflowError) as error:
        raise web.HTTPError(
            400, log_message="keep_until is a time with its zone, like 2026-03-01T12:00:00Z."
        ) from error
    if moment <= datetime.now(timezone.utc):
        raise Refused(400, say("keep-over"))
    return moment


def _named(spec: dict[str, Any]) -> str | None:
    """The size that a kernelspec names, as ``api/kernelspecs`` tells it."""
    return size_in_kernelspec(spec.get("metadata"), spec.get("env") or {})


def _memory(size: Size, gpus: list[Capacity]) -> list[int] | None:
    """The least and the most that a size has of one of these GPUs; None where no GPU is for it."""
    found = [size.bytes_of(gpu.memory_bytes) for gpu in gpus if gpu.profile == size.profile]
    return [min(found), max(found)] if found and not size.is_none else None


def _waiting(rows: Sequence[Allocation]) -> int:
    """How many kernels wait. A broker tells users of their own alone, and how many there are."""
    places = [row.queue for row in rows if row.queue is not None]
    return max([len(places), *(place.of for place in places)])


def _gpu(gpu: Capacity) -> dict[str, Any]:
    return {
        "uuid": gpu.uuid,
        "model": gpu.model,
        "node": gpu.node,
        "memory_bytes": gpu.memory_bytes,
        "free_bytes": gpu.free_bytes,
        "profile": gpu.profile,
        "simulated": gpu.simulated,
        "kernels": gpu.kernels,
    }
