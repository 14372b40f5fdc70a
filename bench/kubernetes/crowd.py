"""The servers of many users, as the cluster's broker knows them: requests and streams of events.

Nothing else of a server is here: no kernel is talked to. Each has a stream of events open, and says
every 20 seconds that it lives, as real ones do.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp

from tests.cluster._api import Api

_CURVE = "abcdefghij" * 4
_SIGN_OF_LIFE = 20.0
_PATIENCE = 240.0


class _User:
    def __init__(self, name: str, token: str) -> None:
        self.name = name
        self.instance = uuid4().hex
        self.headers = {
            "Authorization": f"token {token}",
            "Gpu-Share-Instance": self.instance,
        }


class Contender:
    """Options: ``url`` of the broker, ``tokens`` by the names of users; ``api``, ``authority`` and
    ``token`` of the API server, by which somebody else changes pods.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self._url = given["url"]
        self._users = [_User(name, token) for name, token in given["tokens"].items()]
        self._api = Api(given["api"], Path(given["authority"]), given["token"])
        self._space = given["namespace"]
        self._session: aiohttp.ClientSession | None = None
        self._tasks: list[asyncio.Task[None]] = []
        #: When a user's stream told first that a kernel has this state; by the wall clock.
        self._told: dict[tuple[str, str], float] = {}
        self._pods: dict[str, str] = {}
        self._news = asyncio.Event()

    async def open(self) -> None:
        """Open everybody's stream, and have each tell that it is there."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        ready = [asyncio.Event() for _ in self._users]
        for user, event in zip(self._users, ready, strict=True):
            self._tasks.append(asyncio.create_task(self._listen(user, event)))
            await asyncio.wait_for(event.wait(), _PATIENCE)
            self._tasks.append(asyncio.create_task(self._live(user)))

    async def launch(self, count: int, rate: float, size: str) -> dict[str, Any]:
        """Ask for kernels of all users by turns, so many a second whatever is answered when.

        Returns
        -------
        ``accepted``: seconds from the first request to the last answer. ``latencies``: of each
        request, in seconds. ``early``: states that the answers told, with their numbers.
        ``told``: when each user's stream told that its kernel is ready, by the pod's name; by the
        wall clock.
        """
        begun = time.monotonic()
        states: dict[str, int] = {}
        asked = []
        for number in range(count):
            await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
            user = self._users[number % len(self._users)]
            asked.append(asyncio.create_task(self._start(user, size, states)))
        latencies = await asyncio.wait_for(asyncio.gather(*asked), _PATIENCE)
        accepted = time.monotonic() - begun
        await self._until(lambda: self._count("ready") >= count)
        told = {
            self._pods[kernel]: at for (kernel, state), at in self._told.items() if state == "ready"
        }
        return {"accepted": accepted, "latencies": latencies, "early": states, "told": told}

    async def _start(self, user: _User, size: str, states: dict[str, int]) -> float:
        assert self._session is not None
        kernel, begun = str(uuid4()), time.monotonic()
        keys = {"key": uuid4().hex, "signature_scheme": "hmac-sha256"}
        keys |= {"curve_publickey": _CURVE, "curve_secretkey": _CURVE}
        plan = {
            "attempt": uuid4().hex,
            "size": size,
            "info": {"kernel_name": "python3", "path": f"{user.name}/notebook.ipynb"},
            "pod": {"language": "python", "flags": [], "hash_seed": "", "keys": keys},
        }
        url = f"{self._url}/v1/shares/{kernel}"
        async with self._session.put(url, json=plan, headers=user.headers) as answer:
            row = await answer.json(content_type=None)
            assert answer.status == 201, (answer.status, row)
        states[row["state"]] = states.get(row["state"], 0) + 1
        self._pods[kernel] = row["name"]
        return time.monotonic() - begun

    async def evict(self, count: int, pause: float) -> list[float]:
        """Have pods fail one after the other; seconds from each to the event that tells its user.

        Parameters
        ----------
        pause: mean seconds between two.
        """
        chance = random.Random(4)  # noqa: S311 - no secret
        status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
        kernels = sorted(self._pods)[:count]
        sent = {}
        for kernel in kernels:
            path = f"/api/v1/namespaces/{self._space}/pods/{self._pods[kernel]}/status"
            sent[kernel] = time.time()
            await asyncio.to_thread(self._api.patch, path, {"status": status})
            await asyncio.sleep(chance.uniform(0, 2 * pause))
        await self._until(lambda: all((kernel, "ended") in self._told for kernel in kernels))
        return [self._told[kernel, "ended"] - at for kernel, at in sent.items()]

    async def rest(self, seconds: float) -> None:
        """Do nothing but live."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """End, without a word to the broker."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    # -- what goes on ----------------------------------------------------------------------------

    async def _listen(self, user: _User, ready: asyncio.Event) -> None:
        assert self._session is not None
        limits = aiohttp.ClientTimeout(total=None)
        async with self._session.get(
            f"{self._url}/v1/events", headers=user.headers, timeout=limits
        ) as answer:
            assert answer.status == 200, await answer.text()
            kind = ""
            async for line in answer.content:
                if line.startswith(b"event: "):
                    kind = line[7:].strip().decode()
                    ready.set()
                elif line.startswith(b"data: "):
                    self._hear(kind, json.loads(line[6:]))
        raise AssertionError("a stream of events has ended")

    def _hear(self, kind: str, data: dict[str, Any]) -> None:
        now = time.time()
        for row in data["shares"] if kind == "reset" else [data.get("row")]:
            if row is not None:
                self._told.setdefault((row["kernel_id"], row["state"]), now)
        self._news.set()

    async def _live(self, user: _User) -> None:
        assert self._session is not None
        while True:
            await asyncio.sleep(_SIGN_OF_LIFE)
            url = f"{self._url}/v1/idle"
            with suppress(aiohttp.ClientError):
                async with self._session.put(
                    url, json={"kernels": {}}, headers=user.headers
                ) as answer:
                    await answer.read()

    def _count(self, state: str) -> int:
        return sum(1 for kernel in self._pods if (kernel, state) in self._told)

    async def _until(self, holds: Any) -> None:
        end = time.monotonic() + _PATIENCE
        while not holds():
            self._news.clear()
            for task in self._tasks:
                if task.done():
                    task.result()
            if time.monotonic() > end:
                raise AssertionError(f"not told in time: {self._states()}")
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), 1.0)
            await asyncio.sleep(0.2)  # to count after each event would cost what is measured

    def _states(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for _, state in self._told:
            found[state] = found.get(state, 0) + 1
        return found
