"""What still works in a real kernel although no cell runs, and what only looks like it."""

from __future__ import annotations

import ast
import os
import re
import signal
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from agents import ARGV, DAEMON, Pod, both_ways, run
from processes import alive
from sessions import Session, Sessions
from waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow

RUNNING = "running()"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """The kernels of these tests."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"), ahead=1)) as made:
        yield made


@pytest.fixture(scope="module")
def kernel(house: Sessions) -> Session:
    """A kernel that has imported a lot, and has been used."""
    made = house.start()
    made.run(
        "import _thread, asyncio, concurrent.futures, multiprocessing, multiprocessing.pool, os\n"
        "import subprocess, sys, threading, time\n"
        "import matplotlib.pyplot, numpy, pandas\n"
        "a = 1; print(a)"
    )
    made.run("%history -n")
    return made


def seen(kernel: Session) -> list[str]:
    """What it says, without the numbers of processes."""
    return [re.sub(r" \(\d+\)$", "", line) for line in kernel.ask(RUNNING, "background")]


async def nothing(kernel: Session) -> None:
    """Wait until what a test began has ended."""
    await eventually(lambda: seen(kernel) == [], f"nothing works any more: {seen(kernel)}")


async def test_a_kernel_that_does_nothing_does_nothing(kernel: Session) -> None:
    await nothing(kernel)
    look = "[threading.active_count(), sorted(os.listdir('/proc/self/fd'))[:-1], len(globals())]"
    before = kernel.value(look)
    kernel.ask(RUNNING, "background")
    assert kernel.value(look) == before


async def test_child_processes_are_seen_until_they_end(kernel: Session) -> None:
    kernel.run(
        "one = subprocess.Popen(['sleep', '600'])\n"
        "two = subprocess.Popen(['sh', '-c', 'sleep 601 & wait'])\n"
        "ended = subprocess.Popen(['true'])"
    )
    await eventually(lambda: len(seen(kernel)) == 3, "all run")
    lines = kernel.ask(RUNNING, "background")
    assert f"child process `sleep 600` ({kernel.value('one.pid')})" in lines
    assert f"child process `sh -c sleep 601 & wait` ({kernel.value('two.pid')})" in lines
    (other,) = [line[:-1].split("(")[1] for line in lines if "`sleep 601`" in line]
    assert kernel.value("ended.returncode") is None, "nobody has waited for it, and it is no work"
    kernel.run(f"one.kill(); two.kill(); os.kill({other}, 9)")
    await nothing(kernel)
    assert kernel.value("ended.returncode") is None


async def test_a_process_that_has_left_its_parent_is_seen(house: Sessions) -> None:
    token = uuid.uuid4().hex
    kernel = house.start(JUPYTER_GPU_SHARE_CLAIM=token)
    other = house.start(JUPYTER_GPU_SHARE_CLAIM=f"{token}-2")
    kernel.run("import warnings; warnings.simplefilter('ignore')")  # about forks and threads
    child = int(kernel.run(DAEMON))
    try:
        (line,) = kernel.ask(RUNNING, "background")
        assert line.endswith(f"({child})")
        assert seen(other) == []
    finally:
        os.kill(child, signal.SIGKILL)
    await nothing(kernel)


async def test_processes_and_pools_of_multiprocessing_are_seen(kernel: Session) -> None:
    kernel.run(
        "context = multiprocessing.get_context('fork')\n"
        "child = context.Process(target=time.sleep, args=(600,), name='Trainer', daemon=True)\n"
        "child.start(); pool = context.Pool(2)\n"
        "queue = context.Queue(); queue.put(1); queue.get()"
    )
    assert seen(kernel) == ["child process `Trainer`"], "the pool has nothing to do"
    kernel.run("task = pool.apply_async(time.sleep, (600,))")
    lines = seen(kernel)
    assert len(lines) == 3 and all("`ForkPoolWorker-" in line for line in lines[1:])
    kernel.run("child.kill(); child.join(); pool.terminate(); pool.join()")
    await nothing(kernel)


async def test_an_idle_executor_of_processes_is_none_until_it_gets_work(kernel: Session) -> None:
    kernel.run(
        "context = multiprocessing.get_context('spawn')\n"
        "pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)\n"
        "pool.submit(len, []).result()"
    )
    await nothing(kernel)
    kernel.run("task = pool.submit(time.sleep, 600)")
    lines = seen(kernel)
    assert len(lines) == 1 and "Process-" in lines[0], "what only tracks resources is no work"
    kernel.run("[os.kill(pid, 9) for pid in pool._processes]; pool.shutdown()")
    await nothing(kernel)
    # A process that a task has left is no worker of the pool.
    kernel.run(
        "pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)\n"
        "pool.submit(os.system, 'sleep 602 &').result()"
    )
    (line,) = kernel.ask(RUNNING, "background")
    assert line.startswith("child process `sleep 602`")
    kernel.run(f"os.kill({line[:-1].rpartition('(')[2]}, 9); pool.shutdown()")
    await nothing(kernel)


async def test_the_compilers_of_torch_are_no_work(kernel: Session, tmp_path: Path) -> None:
    """They are fakes: a process, and threads that wait for it, watch it, and time its pauses."""
    worker = tmp_path / "torch" / "_inductor" / "compile_worker" / "__main__.py"
    worker.parent.mkdir(parents=True)
    worker.write_text("import sys; sys.stdin.read()")
    kernel.run(
        "import types\n"
        "module = types.ModuleType('torch._inductor.compile_worker.subproc_pool')\n"
        "module.os = os\n"
        "exec('class SubprocPool:\\n    def _read_thread(self): os.read(self.pipe, 1)\\n'\n"
        "     '    def _health_monitor(self): os.read(self.pipe, 1)', vars(module))\n"
        "timer = types.ModuleType('torch._inductor.compile_worker.timer'); timer.os = os\n"
        "exec('class Timer:\\n    def check(self, pipe): os.read(pipe, 1)', vars(timer))\n"
        "pool = module.SubprocPool(); pool.pipe, end = os.pipe()\n"
        f"child = subprocess.Popen([sys.executable, {str(worker)!r}], stdin=subprocess.PIPE)\n"
        "threads = [threading.Thread(target=pool._read_thread, daemon=True),\n"
        "    threading.Thread(target=pool._health_monitor, daemon=True),\n"
        "    threading.Thread(target=timer.Timer().check, args=(pool.pipe,), daemon=True)]\n"
        "[thread.start() for thread in threads]"
    )
    await nothing(kernel)
    kernel.run(
        "child.stdin.close(); child.wait(); os.write(end, b'...')\n"
        "[thread.join() for thread in threads]"
    )


async def test_threads_are_seen_until_they_end(kernel: Session) -> None:
    kernel.run(
        "go = threading.Event()\n"
        "def poll(): go.wait()\n"
        "class Watcher(threading.Thread):\n"
        "    def run(self): go.wait()\n"
        "threading.Thread(target=poll, name='poller').start()\n"
        "threading.Thread(target=poll, daemon=True).start()\n"
        "Watcher(name='w', daemon=True).start()\n"
        "threading.Timer(600, len).start()\n"
        "_thread.start_new_thread(poll, ())\n"
        "def strange(): threading.current_thread(); go.wait()\n"
        "_thread.start_new_thread(strange, ())"
    )

    def dummies() -> int:
        return sum("Dummy-" in line for line in seen(kernel))

    await eventually(lambda: dummies() == 1, "the thread that Python did not start has a name")
    lines = seen(kernel)
    assert "thread `poller` (`poll`)" in lines
    assert "thread `w` (`Watcher`)" in lines
    assert sum("Timer" in line for line in lines) == 1
    assert sum("(poll)" in line or "Thread-" in line for line in lines) >= 1
    assert "thread in `__main__.poll`" in lines
    assert len(lines) == 6
    kernel.run("go.set(); [t.cancel() for t in threading.enumerate() if hasattr(t, 'cancel')]")
    await nothing(kernel)


async def test_a_pools_worker_counts_while_it_works(kernel: Session) -> None:
    kernel.run(
        "go = threading.Event()\n"
        "idle = concurrent.futures.ThreadPoolExecutor(2); idle.submit(len, []).result()\n"
        "threads = multiprocessing.pool.ThreadPool(2); threads.map(len, [[]])\n"
        "time.sleep(0.05)"
    )
    await nothing(kernel)
    kernel.run("idle.submit(go.wait); threads.apply_async(go.wait)")

    def workers() -> bool:
        lines = seen(kernel)
        return len(lines) == 2 and all(re.fullmatch("worker `.*` of a pool", row) for row in lines)

    await eventually(workers, "both work")
    kernel.run("go.set()")
    await nothing(kernel)
    kernel.run("asyncio.get_running_loop().run_in_executor(None, len, [])")
    await nothing(kernel)


async def test_an_event_loop_of_a_thread_counts_while_it_has_something_to_do(
    house: Sessions,
) -> None:
    """As fsspec has one, from its first use to the end of the process."""
    kernel = house.start()
    kernel.run(
        "import asyncio, socket, threading, time\n"
        "loop = asyncio.new_event_loop()\n"
        "thread = threading.Thread(target=loop.run_forever, name='fsspecIO', daemon=True)\n"
        "thread.start()\n"
        "def own():\n"
        "    asyncio.set_event_loop(other); other.run_forever()\n"
        "other = asyncio.new_event_loop()\n"
        "threading.Thread(target=own, name='mine', daemon=True).start()\n"
        "def on_loop(function, *args):\n"
        "    async def call(): return function(*args)\n"
        "    return asyncio.run_coroutine_threadsafe(call(), loop).result(30)\n"
        "on_loop(len, [])"
    )
    await nothing(kernel)
    works = ["thread `fsspecIO` (`BaseEventLoop.run_forever`)"]
    for begin, end in (
        (
            "task = asyncio.run_coroutine_threadsafe(asyncio.sleep(600), loop)",
            "task.cancel()",
        ),
        ("timer = on_loop(loop.call_later, 600, len, [])", "on_loop(timer.cancel)"),
        (
            "a, b = socket.socketpair(); on_loop(loop.add_reader, a, len, [])",
            "on_loop(loop.remove_reader, a)",
        ),
        (
            "go = threading.Event(); loop.call_soon_threadsafe(go.wait)",
            "go.set()",
        ),
    ):
        kernel.run(begin)
        await eventually(lambda: seen(kernel) == works, f"seen: {begin}")
        kernel.run(end)
        await nothing(kernel)


async def test_a_log_listener_counts_while_its_queue_is_not_empty(house: Sessions) -> None:
    kernel = house.start()
    kernel.run(
        "import logging, logging.handlers, queue, threading\n"
        "go = threading.Event()\n"
        "class Slow(logging.Handler):\n"
        "    def emit(self, record): go.wait()\n"
        "ways = [queue.Queue(), queue.SimpleQueue()]\n"
        "listeners = [logging.handlers.QueueListener(way, Slow()) for way in ways]\n"
        "for each in listeners: each.start()"
    )
    await nothing(kernel)
    kernel.run("for way in ways: way.put(logging.makeLogRecord({}))")
    await eventually(lambda: len(seen(kernel)) == 2, "both write")
    assert all("_monitor" in line for line in seen(kernel))
    kernel.run("go.set()")
    await nothing(kernel)


async def test_the_debugger_is_no_work(house: Sessions) -> None:
    kernel = house.start(JUPYTER_GPU_SHARE_CLAIM=uuid.uuid4().hex)
    kernel.run("import _thread, threading; go = threading.Event(); x = 1")
    for command, arguments in (
        ("initialize", {"clientID": "c", "adapterID": "", "linesStartAt1": True}),
        ("attach", {}),
    ):
        content = {"type": "request", "seq": 1, "command": command, "arguments": arguments}
        session = kernel.client.session
        kernel.client.control_channel.send(session.msg("debug_request", content))
        assert kernel.client.get_control_msg(timeout=PATIENCE)["content"]["success"]
    kernel.run("x = 2")
    assert kernel.value("len(__import__('sys')._current_frames())") > 8, "it is there"
    assert kernel.value(
        "__import__('gpu_share_kernel.background').background._claimed("
        "__import__('gpu_share_kernel.background').background._table(), set()).__len__()"
    ) == 2, "so is its adapter, a process"  # fmt: skip
    await nothing(kernel)
    kernel.run(
        "def mine(): go.wait()\n"
        "_thread.start_new_thread(mine, ())\n"
        "threading.Thread(target=mine, name='other', daemon=True).start()"
    )
    await eventually(lambda: len(seen(kernel)) == 2, "a thread of the user's is")
    assert "thread `other` (`mine`)" in seen(kernel)
    kernel.run("go.set()")
    await nothing(kernel)


async def test_asyncio_tasks_are_seen_until_they_end(kernel: Session) -> None:
    kernel.run(
        "async def tick():\n"
        "    await asyncio.sleep(600)\n"
        "task = asyncio.ensure_future(tick())\n"
        "both = asyncio.gather(tick(), asyncio.sleep(600))\n"
        "done = asyncio.ensure_future(asyncio.sleep(0))"
    )
    await eventually(
        lambda: seen(kernel) == ["asyncio task `sleep`", *["asyncio task `tick`"] * 2],
        "the one that is done is gone",
    )
    kernel.run("task.cancel(); both.cancel()")
    await nothing(kernel)


async def test_what_cannot_be_seen_counts_as_work(house: Sessions) -> None:
    kernel = house.start()
    assert seen(kernel) == []
    kernel.run(
        "import os, threading, asyncio\n"
        "from gpu_share_kernel import background as b\n"
        "class Gone:\n"
        "    def __getattr__(self, name): raise OSError('no /proc')\n"
        "b.os = b.threading = b.asyncio = Gone()"
    )
    assert seen(kernel) == [
        f"it cannot be seen whether {what} run: no /proc"
        for what in ("child processes", "threads", "asyncio tasks")
    ]


@pytest.mark.slow
@both_ways
async def test_in_a_pod_the_agents_own_processes_are_no_work(env: dict[str, str], pod: Pod) -> None:
    pod.boot()
    await pod.link().start("r1", ARGV, env, None)
    client = await pod.ready()
    look = "from gpu_share_kernel import background; print(background.running())"
    assert ast.literal_eval(await run(client, look)) == []
    child = int(await run(client, DAEMON))
    (line,) = ast.literal_eval(await run(client, look))
    assert line.endswith(f"({child})")
    await run(client, f"import os; os.kill({child}, 9)")
    await eventually(lambda: not alive(child), "it is gone")
    await run(client, "import subprocess; p = subprocess.Popen(['sleep', '600'])")
    (line,) = ast.literal_eval(await run(client, look))
    assert line.startswith("child process `sleep 600`")
