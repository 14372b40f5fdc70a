"""HTTP routes of a user's GPU-hours, and of administrators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from prometheus_client import CONTENT_TYPE_LATEST

from .._http import Statuses, told
from .admin import Administration
from .refusals import NoKernel
from .ruling import Key
from .service import CallerHandler, Route

__all__ = ["admin_routes"]


def admin_routes(administration: Administration) -> Sequence[Route]:
    """The routes, below the service's prefix."""
    given = {"administration": administration}
    one = r"/v1/admin/shares/(?P<user>[^/]+)/(?P<server>[^/]*)/(?P<kernel_id>[^/]+)"
    return [
        (r"/v1/usage", _Usage, given),
        (r"/v1/admin/shares", _AllShares, given),
        (one, _AnyShare, given),
        (rf"{one}/release", _AnyRelease, given),
        (r"/v1/admin/usage", _AllUsage, given),
        (r"/v1/admin/pause", _Pause, given),
        (r"/v1/metrics", _Metrics, given),
    ]


class _Handler(CallerHandler):
    statuses: ClassVar[Statuses] = (*CallerHandler.statuses, (NoKernel, 404))

    def initialize(self, administration: Administration) -> None:
        """Called by tornado."""
        self.administration = administration

    def table(self, text: str) -> None:
        """Answer with a table for spreadsheets."""
        self.set_header("Content-Type", "text/csv; charset=utf-8")
        self.set_header("Content-Disposition", 'attachment; filename="gpu-seconds.csv"')
        self.finish(text)

    def wants_table(self) -> bool:
        """Whether the query says ``format=csv``."""
        form = self.get_query_argument("format", "json")
        if form not in ("json", "csv"):
            self.refuse(400, "The parameter format is json or csv.")
        return form == "csv"


class _Usage(_Handler):
    @told
    async def get(self) -> None:
        """GPU-seconds of the one who asks, by day."""
        user = self.caller.user
        if self.wants_table():
            self.table(await self.administration.usage_csv(user))
        else:
            self.answer(await self.administration.usage(user))


class _Admin(_Handler):
    @told
    async def prepare(self) -> None:
        """Called by tornado before each request's method."""
        await super().prepare()
        self.of_administrator()


class _AllShares(_Admin):
    @told
    async def get(self) -> None:
        """All users' kernels."""
        self.answer(self.administration.everything())


class _AllUsage(_Admin):
    @told
    async def get(self) -> None:
        """GPU-seconds of all users and groups, by day."""
        if self.wants_table():
            self.table(await self.administration.usage_csv())
        else:
            self.answer(await self.administration.usage())


class _AnyShare(_Admin):
    @told
    async def delete(self, user: str, server: str, kernel_id: str) -> None:
        """End somebody's kernel."""
        key = Key(user, server, self.kernel(kernel_id))
        self.administration.end(key, self.caller.user)
        self.answer({"ended": True})


class _AnyRelease(_Admin):
    @told
    async def post(self, user: str, server: str, kernel_id: str) -> None:
        """Ask somebody's share back."""
        key = Key(user, server, self.kernel(kernel_id))
        self.administration.ask_back(key, self.caller.user)
        self.answer({"asked": True})


class _Pause(_Admin):
    @told
    async def put(self) -> None:
        """Give out no new shares, or go on."""
        paused = self.body(paused=bool).get("paused")
        if paused is None:
            self.refuse(400, "The request has no field paused.")
        await self.administration.pause(paused, self.caller.user)
        self.answer({"paused": paused})


class _Metrics(_Admin):
    @told
    async def get(self) -> None:
        """What Prometheus asks, with a token of an administrator."""
        text = await self.administration.metrics()
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(text)
