"""The demonstration with several users: a broker's limit, and an idle share that goes round."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

from .._threads import in_thread, to_the_end, within
from ..errors import EngineError
from ._demo_user import DEMAND_AFTER, WARN_BEFORE
from ._tables import allocations_table

__all__ = ["User", "demo_users", "free_numbers", "play"]

_GPU = "1xA100-80GB"
#: Numbers of users that no directory gives out for long: systemd lends them to services.
_NUMBERS = range(61184, 65520)
#: A demonstration that takes longer than this many seconds has gone wrong, and so has one that does
#: not end within the second number of them.
_PATIENCE, _END = 240.0, 15.0
_BROKER = "import sys; from jupyter_gpu_share.cli import main; sys.exit(main(sys.argv[1:]))"
#: What users get of the environment: no settings and no rights of who runs this.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")


async def demo_users(count: int) -> int:
    """Have as many users share one simulated GPU; the command's exit code.

    Raises
    ------
    GpuShareError: it cannot be shown here; says what is missing.
    """
    if find_spec("ipykernel") is None:
        raise EngineError("The demo needs ipykernel: pip install 'jupyter-gpu-share[demo]'")
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        missing = "root" if os.geteuid() else "the command setpriv, of the package util-linux"
        raise EngineError(
            f"The demo with several users needs {missing}: each of them is a user of the system. "
            "Without --users it needs neither."
        )
    begun = monotonic()
    folder = Path(await in_thread(tempfile.mkdtemp, prefix="gpu-share-demo-"))
    try:
        await within(_PATIENCE, _stage(folder, setpriv, count))
    except asyncio.TimeoutError as error:
        raise EngineError(f"The demo did not end within {_PATIENCE:g} s.") from error
    finally:
        await in_thread(shutil.rmtree, folder, ignore_errors=True)
    print(
        f"\n{count} users shared one GPU in {monotonic() - begun:.0f} s: a limit held, and an idle "
        "share went round with its variables kept. All shares are back."
    )
    return 0


async def _stage(folder: Path, setpriv: str, count: int) -> None:
    share = Fraction(1, count - 1)
    socket = folder / "run" / "broker.sock"
    settings = await in_thread(_prepare, folder, share)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_broker(folder, setpriv, settings, socket))
        print(
            f"A broker keeps one SIMULATED GPU of 80 GiB for {count} users, and allows each of "
            f"them {share} of it. A share goes to who waits after {DEMAND_AFTER:g} s without use."
        )
        opened = [_user(folder, setpriv, socket, uid) for uid in free_numbers(count)]
        users = [await stack.enter_async_context(each) for each in opened]
        await play(users, str(share))
        await _all_back(socket)


def _prepare(folder: Path, share: Fraction) -> Path:
    """Let everybody in, and write what an administrator would."""
    folder.chmod(0o755)
    settings = folder / "broker_config.py"
    settings.write_text(
        f"c.Broker.folder = {str(folder / 'state')!r}\n"
        f"c.Broker.simulate = {_GPU!r}\n"
        f'c.Broker.limits = [{{"resource": "gpus", "limit": "{share}", '
        '"scope": {"user": ["*"]}}]\n'
        f"c.IdlePolicy.idle_after = c.IdlePolicy.warn_before = {WARN_BEFORE}\n"
        f"c.IdlePolicy.demand_after = {DEMAND_AFTER}\n"
    )
    settings.chmod(0o644)
    return settings


async def play(users: list[User], share: str) -> None:
    """All users but the last hold a share each; then one asks for too much, and the last for one.

    Raises
    ------
    EngineError: something else came of it than should.
    """
    begun = monotonic()

    def show(what: str) -> None:
        rows = [row for each in users for row in each.rows()]
        print(f"\n{monotonic() - begun:5.1f} s  {what}\n{allocations_table(rows)}", flush=True)

    *holders, late = users
    await asyncio.gather(*(each.ask("start", "work", share) for each in holders))
    for each in holders:
        await each.ask("run", "work", f"found = {each.uid}")
    show("All of the GPU is held.")

    refusal = await holders[0].refused("start", "more", share)
    print(f"\n  {holders[0].name} asks for as much again, and is told:\n  {refusal}", flush=True)

    given = await _goes_round(holders, late, share, show)
    show(f"Nobody used the share of {given.name}: it went round, and the kernel lives on.")

    await late.ask("run", "late", "print(6 * 7)")
    await late.ask("end", "late")
    told = await given.ask("run", "work", "print(found)")
    if told != str(given.uid):
        raise EngineError(f"The demo did not show what it should: a variable became {told!r}.")
    show(f"{late.name} has ended, {given.name} goes on: found is {told}, as before.")
    await asyncio.gather(*(each.ask("end", "work") for each in holders))


async def _goes_round(
    holders: list[User], late: User, share: str, show: Callable[[str], None]
) -> User:
    """Have one more user ask for a share; whose went to them."""
    tasks = [
        asyncio.create_task(late.ask("start", "late", share)),
        asyncio.create_task(late.until("queued")),
        *(asyncio.create_task(each.until("released")) for each in holders),
    ]
    starting, waits, *going = tasks
    try:
        await asyncio.wait([starting, waits], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            raise EngineError("The demo did not show what it should: nobody waited.")
        show(f"{late.name} waits.")
        await starting
        done, _ = await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
        return holders[min(going.index(task) for task in done)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _all_back(socket: Path) -> None:
    from ..broker.client import BrokerClient

    client, end = BrokerClient(socket), monotonic() + _END
    try:
        while await in_thread(client.ask, "GET", "/v1/admin/shares"):
            if monotonic() > end:
                raise EngineError("The demo did not show what it should: a share is left.")
            await asyncio.sleep(0.1)
    finally:
        client.close()


class User:
    """A process that runs as one user, and what it tells of its kernels."""

    def __init__(self, uid: int, process: asyncio.subprocess.Process, log: Path) -> None:
        self.uid = uid
        self.name = f"uid {uid}"  # as the broker calls a user without an account
        self._process = process
        self._log = log
        self._rows: dict[str, dict[str, Any]] = {}
        self._news = asyncio.Condition()
        self._answers: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    def rows(self) -> list[dict[str, Any]]:
        """The kernels that have not ended, as the contract has allocations."""
        rows = [row for row in self._rows.values() if row["state"] != "ended"]
        return [{**row, "user": self.name} for row in rows]

    def stands(self, *states: str) -> bool:
        """Whether one of the kernels is in one of these states."""
        return any(row["state"] in states for row in self._rows.values())

    async def until(self, *states: str) -> None:
        """Wait for that."""
        async with self._news:
            await self._news.wait_for(lambda: self.stands(*states))

    async def ask(self, *request: str) -> str:
        """What the process answers.

        Raises
        ------
        EngineError: it does not do it, or has ended.
        """
        answer = await self._ask(*request)
        if "failed" in answer:
            raise EngineError(f"The demo failed for {self.name}: {answer['failed']}")
        return answer["done"]

    async def refused(self, *request: str) -> str:
        """Why it does not do what must not be done."""
        answer = await self._ask(*request)
        if "failed" not in answer:
            raise EngineError("The demo did not show what it should: the limit did not hold.")
        return answer["failed"]

    async def _ask(self, *request: str) -> dict[str, str]:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended, and that is told below
            self._process.stdin.write(f"{json.dumps(request)}\n".encode())
            await self._process.stdin.drain()
        return await self._answers.get()

    async def listen(self) -> None:
        """Read what the process tells until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "row" not in told:
                self._answers.put_nowait(told)
                continue
            async with self._news:
                self._rows[told["row"]["kernel_id"]] = told["row"]
                self._news.notify_all()
        last = await in_thread(_last_line, self._log)
        self._answers.put_nowait({"failed": f"its process has ended. {last}"})


@asynccontextmanager
async def _user(folder: Path, setpriv: str, socket: Path, uid: int) -> AsyncIterator[User]:
    home, log = folder / str(uid), folder / f"{uid}.log"
    home.mkdir(mode=0o700)
    os.chown(home, uid, uid)
    command = [setpriv, f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"]
    if not _others_may_read():
        # Else they could not read this Python where it lies. That lets them read all files, as root
        # could, who runs this; all that they run is the demo's own code.
        command += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    command += [sys.executable, "-m", f"{__package__}._demo_user"]
    env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    env |= {
        "HOME": str(home),
        "TMPDIR": str(home),  # what is left there goes with it
        "JUPYTER_GPU_SHARE_BROKER": str(socket),
        "JUPYTER_DEFAULT_PROVISIONER_NAME": "gpu-share-provisioner",
    }
    pipe = asyncio.subprocess.PIPE
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=errors, env=env, cwd=home, limit=2**20
        )
    found = User(uid, process, log)
    listening = asyncio.create_task(found.listen())
    try:
        yield found
    finally:
        assert process.stdin is not None
        process.stdin.close()  # it ends its kernels, and then itself
        await _ended(process)
        await listening


@asynccontextmanager
async def _broker(folder: Path, setpriv: str, settings: Path, socket: Path) -> AsyncIterator[None]:
    from ..broker.client import BrokerAway, BrokerClient

    log = folder / "broker.log"
    # It ends with this process, however that ends.
    command = [setpriv, "--pdeathsig=KILL", sys.executable, "-c", _BROKER, "broker"]
    command += ["--config", str(settings), "--socket", str(socket)]
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(*command, stdout=errors, stderr=errors)
    client = BrokerClient(socket)
    try:
        while True:
            try:
                await in_thread(client.ask, "GET", "/v1/machine")
                break
            except BrokerAway as error:
                if process.returncode is not None:
                    raise EngineError(
                        f"The demo's broker has ended. {await in_thread(_last_line, log)}"
                    ) from error
                await asyncio.sleep(0.05)
        yield
    finally:
        client.close()
        with suppress(ProcessLookupError):
            process.terminate()
        await to_the_end(_ended(process))


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Wait for the end of a process that was told to end, and make sure of it."""
    try:
        await within(_END, process.wait())
    except BaseException as error:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if not isinstance(error, asyncio.TimeoutError):
            raise


def _others_may_read() -> bool:
    """Whether every user of the system reaches this Python and what it runs."""
    roots: Iterable[str] = (sys.executable, sys.prefix, sys.base_prefix, __file__)
    places = {Path(each) for each in (*roots, sysconfig.get_paths()["purelib"])}
    resolved = places | {place.resolve() for place in places}
    folders = {parent for place in resolved for parent in place.parents}
    return all(folder.stat().st_mode & 0o001 for folder in folders)


def free_numbers(count: int) -> list[int]:
    """Numbers of users that nobody has, and no process runs under."""
    running = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            running.add(process.stat().st_uid)
    free = (uid for uid in _NUMBERS if uid not in running and not _has_account(uid))
    return [uid for uid, _ in zip(free, range(count), strict=False)]


def _has_account(uid: int) -> bool:
    with suppress(KeyError):
        pwd.getpwuid(uid)
        return True
    return False


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""
