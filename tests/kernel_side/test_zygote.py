"""Kernels that are forked from a process with ipykernel in it are like those that are not."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import comm
import pytest
from agents import ARGV, EXECUTED, FLAGS, Pod, both_ways, run
from frameworks import FAKE_TENSORFLOW
from processes import alive, command, descendants
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes._link import AgentState
from jupyter_gpu_share.kernel_side.gpu_share_kernel.zygote import module_of, survives_fork

GIB = 2**30


# -- which kernels can be forked: pure ---------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "module"),
    [
        (["python", "-m", "ipykernel_launcher", "-f", "x"], ["-f", "x"]),
        (["/opt/conda/bin/python3", "-m", "ipykernel_launcher"], []),
        (["python", "-Xfrozen_modules=off", "-B", "-m", "ipykernel_launcher", "-f"], ["-f"]),
        (["python", "-m", "ipykernel_launcher", "-m", "x"], ["-m", "x"]),
        (["python", "-m", "ipykernel"], None),
        (["python", "-m"], None),
        (["-m", "ipykernel_launcher"], None),
        (["python", "script.py", "-m", "ipykernel_launcher"], None),
        (["env", "python", "-m", "ipykernel_launcher"], None),
        (["python", "-c", "print()"], None),
        (["R", "--slave"], None),
        (["python"], None),
        ([], None),
    ],
)
def test_what_is_ipykernel_and_what_is_not(argv: list[str], module: list[str] | None) -> None:
    assert module_of(argv) == module


@pytest.mark.parametrize(
    ("ours", "theirs", "survives"),
    [
        ({}, {}, True),
        ({}, {"TZ": "UTC", "HOME": "/", "OMP_NUM_THREADS": "1"}, True),
        ({"A": "1"}, {}, True),
        ({}, {"PYTHONHASHSEED": "1"}, False),
        ({"PYTHONHASHSEED": "1"}, {}, False),
        ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "1"}, True),
        ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"}, False),
        ({}, {"LD_PRELOAD": "x.so"}, False),
        ({"LD_LIBRARY_PATH": "/a"}, {"LD_LIBRARY_PATH": "/a:/b"}, False),
        ({}, {"MALLOC_ARENA_MAX": "8"}, False),
        ({}, {"GLIBC_TUNABLES": "x"}, False),
        ({"PYTHONPATH": "/a"}, {"PYTHONPATH": "/a"}, True),
        ({"PYTHONPATH": "/a"}, {"PYTHONPATH": "/a:/b"}, False),
    ],
)
def test_which_environments_survive_a_fork(
    ours: dict[str, str], theirs: dict[str, str], survives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    assert survives_fork(theirs) is survives


# -- a forked kernel is like one that was executed ---------------------------------------------

#: What a kernel can see of the world that it is in, as JSON.
LOOK = """
import faulthandler, gc, getpass, json, locale, logging, os, pickle, resource, signal, site, stat
import sys, tempfile, threading, time, warnings
class Mine:
    pass
seen = {
    "environment": dict(os.environ),
    "folder": os.getcwd(),
    "path": sys.path,
    "arguments": sys.argv,
    "flags": str(sys.flags),
    "options": str((sys._xoptions, sys.warnoptions)),
    "interpreter": (sys.executable, sys.prefix),
    "main": (__name__, sys.modules["__main__"].__dict__ is globals()),
    "pickles": type(pickle.loads(pickle.dumps(Mine()))) is Mine,
    "signals": {n: str(signal.getsignal(n)).split(" at ")[0] for n in range(1, 32)},
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "leads": (os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()),
    "umask": (os.umask(0o22), os.umask(0o22)),
    "priority": os.nice(0),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "descriptors": sorted(
        os.path.realpath(f"/proc/self/fd/{n}") for n in range(3)
    ),
    "input": os.read(0, 1).decode(),
    "zone": (time.tzname, time.timezone),
    "encodings": (sys.getfilesystemencoding(), sys.__stdout__.encoding, sys.__stderr__.encoding,
                  locale.getpreferredencoding(False), locale.setlocale(locale.LC_CTYPE)),
    "temporary": tempfile.gettempdir(),
    "home": os.path.expanduser("~"),
    "limits": (sys.getrecursionlimit(), sys.getswitchinterval()),
    "garbage": (gc.isenabled(), gc.get_threshold(), faulthandler.is_enabled()),
    "threads": sorted(t.name.rstrip("0123456789-") for t in threading.enumerate()),
    "hooks": [type(f).__name__ if not isinstance(f, type) else f.__name__ for f in sys.meta_path],
    "log": (logging.root.level, len(logging.root.handlers)),
    "warnings": sorted(str(f) for f in warnings.filters),
    "profile": get_ipython().profile_dir.location,
    "parent": (get_ipython().kernel.session.key != b"", get_ipython().kernel.iopub_socket is None),
}
print(json.dumps(seen))
"""


@pytest.mark.slow
async def test_both_see_the_same_world(pod: Pod) -> None:
    pod.boot(env={"ONLY_THE_PODS": "1", "OVERRIDDEN": "by the pod"})
    folder = pod.folder / "elsewhere"
    for name in ("home", "tmp", "work", "ipython"):
        (folder / name).mkdir(parents=True)
    env = {
        "TZ": "Asia/Tokyo",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "IPYTHONDIR": str(folder / "ipython"),
        "LANG": "C.UTF-8",
        "OVERRIDDEN": "by the kernel",
        "UMLAUT": "\u00e4",
        "EMPTY": "",
        "JUPYTER_GPU_SHARE_UUID": "GPU-0",
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(GIB),
    }
    link = pod.link()
    seen: dict[str, Any] = {}
    for way, more in (("forked", {}), ("executed", EXECUTED)):
        state = await link.start(way, ARGV, env | more, str(folder / "work"))
        pid = state.pid
        assert pid is not None
        # A process that is just being executed has no command for a moment.
        words = await eventually(lambda pid=pid: command(pid), "it has a command")
        assert ("ipykernel_launcher" in words) is (way == "executed")
        seen[way] = json.loads(await run(await pod.ready(), LOOK))
    assert seen["executed"]["environment"].pop("MALLOC_ARENA_MAX") == "8"
    assert seen["forked"] == seen["executed"]
    assert seen["forked"]["environment"].items() >= env.items()
    assert seen["forked"]["environment"]["ONLY_THE_PODS"] == "1"
    assert seen["forked"]["zone"][0][0] == "JST"
    assert seen["forked"]["folder"] == str(folder / "work")


@pytest.mark.slow
@both_ways
async def test_a_variable_of_the_image_can_be_kept_from_the_kernel(
    env: dict[str, str], pod: Pod
) -> None:
    pod.boot(env={"OF_THE_IMAGE": "1", "OTHER": "2"})
    order = {"run": "r1", "argv": ARGV, "env": env, "cwd": None, "drop": ["OF_THE_IMAGE", "NONE"]}
    await pod.peer().say("start", **order)
    code = "import os; print([n for n in ('OF_THE_IMAGE', 'OTHER') if n in os.environ])"
    assert await run(await pod.ready(), code) == "['OTHER']"


@pytest.mark.slow
async def test_no_two_kernels_draw_the_same_random_numbers(pod: Pod) -> None:
    pod.boot()
    link = pod.link()
    code = "import random, tempfile, uuid; print(random.random(), tempfile.mktemp(), uuid.uuid4())"
    drawn = set()
    for number in range(3):
        await link.start(f"r{number}", ARGV, {}, None)
        drawn |= set((await run(await pod.ready(), code)).split())
    assert len(drawn) == 9


@pytest.mark.slow
@both_ways
async def test_processes_of_all_kinds_can_be_started(env: dict[str, str], pod: Pod) -> None:
    pod.boot()
    await pod.link().start("r1", ARGV, env, None)
    client = await pod.ready()
    for method in ("fork", "spawn", "forkserver"):
        code = (
            "import math, multiprocessing as m\n"
            f"with m.get_context({method!r}).Pool(1) as pool: print(pool.map(math.sqrt, [4]))"
        )
        assert (await run(client, code)).endswith("[2.0]")
    code = "import subprocess as s, sys; print(s.check_output([sys.executable, '-c', 'print(5)']))"
    assert await run(client, code) == r"b'5\n'"


# -- PYTHONPATH --------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_kernels_own_python_path_counts_before_what_the_image_has(pod: Pod) -> None:
    """Even for modules that were imported before it was known, and with its sitecustomize."""
    mine = pod.folder / "mine"
    shutil.copytree(Path(comm.__file__).parent, mine / "comm")
    with (mine / "comm" / "__init__.py").open("a") as file:
        file.write("\nWHOSE = 'mine'\n")
    (mine / "sitecustomize.py").write_text("import sys; sys.customized = True\n")
    pod.boot()
    env = {
        "PYTHONPATH": str(mine),
        "JUPYTER_GPU_SHARE_UUID": "GPU-0",
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(GIB),
    }
    await pod.link().start("r1", ARGV, env, None)
    code = "import comm, sys, gpu_share_kernel; print(comm.WHOSE, sys.customized)"
    client = await pod.ready()
    assert await run(client, code) == "mine True"
    hooks = "print([type(f).__name__ for f in sys.meta_path if 'gpu_share' in type(f).__module__])"
    assert await run(client, hooks) == "['_Finder']"


# -- folders -----------------------------------------------------------------------------------


@pytest.mark.slow
@both_ways
async def test_a_folder_that_is_not_there_is_no_reason_not_to_start(
    env: dict[str, str], pod: Pod
) -> None:
    pod.boot()
    await pod.link().start("r1", ARGV, env, str(pod.folder / "none"))
    assert await run(await pod.ready(), "import os; print(os.getcwd())") == str(pod.folder)


@pytest.mark.slow
@both_ways
async def test_no_file_of_the_working_folder_stands_for_a_module_of_python(
    env: dict[str, str], pod: Pod
) -> None:
    work = pod.folder / "work"
    work.mkdir()
    for name in ("json", "zmq", "ipykernel", "random", "tempfile"):
        (work / f"{name}.py").write_text(f"raise ImportError('{name} of the working folder')")
    (work / "helper.py").write_text("found = True")
    pod.boot(cwd=work)
    await pod.link().start("r1", ARGV, env, None)
    assert await run(await pod.ready(), "import helper; print(helper.found)") == "True"


# -- soft caps ---------------------------------------------------------------------------------


@pytest.mark.slow
@both_ways
@pytest.mark.parametrize(
    ("share", "limits"),
    [
        ({"JUPYTER_GPU_SHARE_UUID": "GPU-0", "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(5 * GIB)}, 5120),
        ({"CUDA_VISIBLE_DEVICES": "", "JUPYTER_GPU_SHARE_MEMORY_BYTES": "0"}, None),
        ({"JUPYTER_GPU_SHARE_UUID": "GPU-0"}, None),
        ({"JUPYTER_GPU_SHARE_UUID": "GPU-0", "JUPYTER_GPU_SHARE_MEMORY_BYTES": "lots"}, None),
    ],
    ids=["a share", "no share", "a share without memory", "a share that makes no sense"],
)
async def test_frameworks_are_capped_to_the_share(
    share: dict[str, str], limits: int | None, env: dict[str, str], pod: Pod
) -> None:
    modules = pod.folder / "modules"
    modules.mkdir()
    (modules / "tensorflow.py").write_text(FAKE_TENSORFLOW)
    pod.boot(path=(modules,))
    await pod.link().start("r1", ARGV, env | share, None)
    told = await run(await pod.ready(), "import tensorflow; print(tensorflow.config.limits)")
    assert told == ("[]" if limits is None else f"[('gpu0', {limits})]")


# -- the importing process is lost -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_kernel_survives_the_process_that_it_was_forked_from(number: int, pod: Pod) -> None:
    pod.boot()
    link = pod.link()
    state = await link.start("r1", ARGV, {}, None)
    client = await pod.ready()
    await run(client, "x = 41")
    zygote = pod.zygote()
    assert command(zygote) == command(pod.pid())
    os.kill(zygote, number)
    await eventually(lambda: not alive(zygote), "it is gone")
    assert await run(client, "print(x + 1)") == "42"
    # Its end is still noticed, and so is what it leaves; the next one starts.
    client.execute("import subprocess; subprocess.Popen(['sleep', '600']); import os; os._exit(3)")
    await eventually(lambda: link.state and link.state.exit_code == 3, "the end is told")
    await eventually(lambda: not descendants(pod.pid()), "nothing is left")
    state = await link.start("r2", ARGV, {}, None)
    assert await run(await pod.ready(), "import os; print(os.getpid())") == str(state.pid)


@pytest.mark.slow
async def test_an_old_kernel_ends_before_the_next_one_though_its_parent_is_lost(pod: Pod) -> None:
    pod.boot()
    link = pod.link()
    old = await link.start("r1", ARGV, {}, None)
    os.kill(pod.zygote(), signal.SIGKILL)
    new = await link.start("r2", ARGV, {}, None)
    assert new.pid != old.pid
    assert pod.kernels() == {new.pid}


#: Faults of the importing process, and how many kernels come of an order.
FAULTS = {
    # It forks the kernel, and is gone before that is told.
    "before it tells": """
import json, os
from gpu_share_kernel import zygote
tell = zygote._tell
def fall_silent(sock, message):
    if message["what"] == "started":
        os._exit(9)
    tell(sock, message)
zygote._tell = fall_silent
""",
    # It is gone as soon as an order comes.
    "before it forks": """
import os
from gpu_share_kernel import zygote
real = zygote._warm_up
def warm_up():
    problem = real()
    os.fork = lambda: os._exit(9)
    return problem
zygote._warm_up = warm_up
""",
    # It tells that it is ready, and is gone.
    "before it listens": """
import os
from gpu_share_kernel import zygote
zygote._take_orders = lambda *_: os._exit(9)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("when", FAULTS)
async def test_an_order_that_is_lost_is_carried_out_all_the_same(when: str, pod: Pod) -> None:
    pod.boot(before=FAULTS[when])
    state = await pod.link().start("r1", ARGV, {}, None)
    client = await pod.ready()
    assert await run(client, "import os; print(os.getpid())") == str(state.pid)
    assert pod.kernels() == {state.pid}


#: The kernel is there, but that is told only when the test says so.
LATE = """
import os, time
from gpu_share_kernel import zygote
tell = zygote._tell
def tell_late(sock, message):
    while message["what"] == "started" and not os.path.exists("go on"):
        time.sleep(0.01)
    tell(sock, message)
zygote._tell = tell_late
"""


@pytest.mark.slow
@pytest.mark.parametrize("then", ["start", "end"])
async def test_a_kernel_that_is_wanted_no_more_when_it_is_told_of_is_ended(
    then: str, pod: Pod
) -> None:
    pod.boot(before=LATE)
    peer = pod.peer()
    await peer.say("start", run="r1", argv=ARGV, env={}, cwd=None)
    await eventually(pod.kernels, "the kernel is there")
    (old,) = pod.kernels()
    await peer.say(then, run="r2", argv=ARGV, env={}, cwd=None)
    (pod.folder / "go on").touch()
    await eventually(lambda: not alive(old), "the old one is ended")
    link = pod.link()
    if then == "start":
        state = await link.start("r2", ARGV, {}, None)
        assert pod.kernels() == {state.pid}
    else:
        await eventually(lambda: link.state and link.state.exit_code is not None, "it is told")
        assert link.state == AgentState(run="r1", exit_code=-signal.SIGKILL, parks=True)


@pytest.mark.slow
async def test_a_kernel_whose_end_was_never_told_is_not_waited_for(pod: Pod) -> None:
    fault = """
import os
from gpu_share_kernel import zygote
tell = zygote._tell
def fall_silent(sock, message):
    if message["what"] == "ended":
        os._exit(9)
    tell(sock, message)
zygote._tell = fall_silent
"""
    pod.boot(before=fault)
    link = pod.link()
    await link.start("r1", ARGV, {}, None)
    (await pod.ready()).execute("import os; os._exit(3)")
    await eventually(lambda: link.state and link.state.exit_code is not None, "the end is told")
    assert link.state is not None
    assert link.state.exit_code == 1, "with what code it ended is not known any more"
    assert link.state.exit_why == "it ended together with the process that waited for it"
    assert (await link.start("r2", ARGV, {}, None)).pid is not None


@pytest.mark.slow
async def test_a_machine_without_room_for_a_process_is_told(pod: Pod) -> None:
    fault = """
import errno, os
from gpu_share_kernel import zygote
real = zygote._warm_up
def warm_up():
    problem = real()
    def refuse():
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    os.fork = refuse
    return problem
zygote._warm_up = warm_up
"""
    pod.boot(before=fault)
    state = await pod.link().start("r1", ARGV, {}, None)
    assert (state.pid, state.exit_code) == (None, 1)
    assert state.exit_why == "no process could be started: Resource temporarily unavailable"
    # One that is executed needs none of the importing process.
    assert (await pod.link().start("r2", ARGV, EXECUTED, None)).pid is not None


@pytest.mark.slow
async def test_interpreters_flags_are_the_agents_own(pod: Pod) -> None:
    pod.boot(flags=[*FLAGS, "-B", "-Wignore::UserWarning"])
    await pod.link().start("r1", ARGV, {}, None)
    code = "import sys; print(sys.dont_write_bytecode, sys.warnoptions)"
    assert await run(await pod.ready(), code) == "True ['ignore::UserWarning']"
