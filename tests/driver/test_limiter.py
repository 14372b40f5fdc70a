"""Root's service that limits GPU memory: true control groups and processes, a FAKE driver."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_driver import GIB, MIB, UUIDS, FakeDriver
from limiters import ROOT, running, tree_of
from waiting import PATIENCE

from jupyter_gpu_share.engines._processes import carriers, carriers_of
from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.limiter import _groups, client
from jupyter_gpu_share.limiter.__main__ import main, parser
from jupyter_gpu_share.limiter._groups import Groups, GroupsError

HERE = Path(__file__).parent
CONTEXT = 256 * MIB
#: Takes GiB after GiB, and tells how many it got; then it waits.
TAKE = """
import sys, fake_gpu_program as gpu
had = []
try:
    while True: had.append(gpu.Array(2**30, int(sys.argv[1]) if sys.argv[1:] else 0))
except MemoryError: print(len(had), flush=True)
input()
"""
NAME, OTHER = "a" * 32, "b" * 32
#: Nobody's number but that of the user "nobody" on all systems.
NOBODY = 65534


@pytest.fixture
def tree() -> Iterator[Path]:
    with tree_of() as made:
        yield made


@pytest.fixture
def service(driver: FakeDriver, tree: Path) -> Iterator[str]:
    with running(driver, tree) as path:
        yield str(path)


Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run(driver: FakeDriver) -> Iterator[Run]:
    """Starts a program that sees the driver; each is ended with the test."""
    with ExitStack() as stack:

        def start(*argv: str, **options: object) -> subprocess.Popen[str]:
            process = subprocess.Popen(  # type: ignore[call-overload]
                argv,
                env={**os.environ, **driver.env, "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                **options,
            )
            stack.callback(process.communicate, timeout=PATIENCE)
            stack.callback(process.kill)
            return process  # type: ignore[no-any-return]

        yield start


def inside(service: str, code: str, *arguments: str, group: str = NAME) -> list[str]:
    return client.command(service, group, [sys.executable, "-c", code, *arguments])


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_all_processes_of_a_group_have_one_limit_together(
    driver: FakeDriver, service: str, run: Run
) -> None:
    client.make(service, NAME, {UUIDS[0]: 5 * GIB})
    first = run(*inside(service, TAKE))
    assert line(first) == "4", "its context is within the limit"
    second = run(*inside(service, "import fake_gpu_program as gpu; gpu.Array(2**30)"))
    assert "MemoryError" in second.communicate(timeout=PATIENCE)[1]
    assert driver.used() == 4 * GIB + CONTEXT
    other = run(sys.executable, "-c", TAKE)
    assert line(other) == "11", "nobody else is limited"


def test_a_gpu_that_is_not_of_the_share_gives_nothing(service: str, run: Run) -> None:
    client.make(service, NAME, {UUIDS[0]: 5 * GIB})
    assert line(run(*inside(service, TAKE, "1"))) == "0", "not even a context"
    client.make(service, OTHER, {UUIDS[1]: 5 * GIB})
    assert line(run(*inside(service, TAKE, "1", group=OTHER))) == "4"


def test_a_process_is_the_same_one_and_limited_from_its_first_line(
    tree: Path, service: str, run: Run
) -> None:
    client.make(service, NAME, {UUIDS[0]: GIB})
    code = "import os; print(open('/proc/self/cgroup').read().split('0::')[1].split()[0],"
    process = run(*inside(service, code + " os.getpid())"))
    group, pid = line(process).split()
    assert tree.parent / group[1:] == tree / "0" / NAME
    assert int(pid) == process.pid
    # Python ignores this signal, and what it becomes would do so, too.
    ignored = run(*client.command(service, NAME, ["grep", "SigIgn", "/proc/self/status"]))
    assert int(line(ignored).split()[1], 16) & 1 << (signal.SIGPIPE - 1) == 0


def test_a_command_that_cannot_join_is_not_run(service: str, run: Run, tmp_path: Path) -> None:
    code = "print('it runs')"
    for path, why in ((service, "There is no group"), (str(tmp_path / "none"), "No such file")):
        process = run(*inside(path, code))
        out, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == client.NOT_JOINED
        assert out == ""
        assert why in errors


def test_who_is_limited_cannot_change_that(driver: FakeDriver, service: str, run: Run) -> None:
    """Neither its own limit, nor by another group, nor by a child."""
    client.make(service, NAME, {UUIDS[0]: 2 * GIB})
    client.make(service, OTHER, {UUIDS[0]: 8 * GIB})
    code = f"""
import subprocess, sys
from jupyter_gpu_share.limiter import client
from jupyter_gpu_share.errors import EngineError
for what, group, *limits in (
    (client.set_limits, "{NAME}", {{"{UUIDS[0]}": 2**33}}),
    (client.make, "{"c" * 32}", {{"{UUIDS[0]}": 2**30}}),
    (client.end, "{NAME}"),
):
    try: what("{service}", group, *limits)
    except EngineError as error: print(error)
join = client.command("{service}", "{OTHER}", ["true"])
print(subprocess.run(join, capture_output=True, text=True).stderr.strip())
"""
    said = run(*inside(service, code)).communicate(timeout=PATIENCE)[0].splitlines()
    assert len(said) == 4
    assert all("under a limit cannot change limits" in each for each in said), said
    assert driver.limits() == {NAME: 2 * GIB, OTHER: 8 * GIB}


def test_other_users_reach_neither_the_service_nor_each_others_groups(
    driver: FakeDriver, tree: Path, run: Run
) -> None:
    """Whose a group is, the system tells, not the request."""
    driver.folder.parent.chmod(0o755)
    for folder in (driver.folder, *driver.folder.parents[:3]):
        folder.chmod(0o755)
    code = f"""
import json, os, socket, sys
os.setgid({NOBODY}); os.setuid({NOBODY})
for request in json.loads(sys.argv[2]):
    with socket.socket(socket.AF_UNIX) as one:
        try: one.connect(sys.argv[1])
        except OSError as error: print(error); continue
        one.sendall(json.dumps(request).encode() + b"\\n"); print(one.recv(999).decode().strip())
"""
    asked = [
        {"do": "set", "group": NAME, "limits": {UUIDS[0]: 8 * GIB}},
        {"do": "join", "group": NAME},
        {"do": "end", "group": NAME},
        {"do": "make", "group": NAME, "limits": {UUIDS[0]: GIB}},
    ]
    with running(driver, tree) as path:
        client.make(str(path), NAME, {UUIDS[0]: 2 * GIB})
        process = run(sys.executable, "-c", code, str(path), json.dumps(asked))
        said = process.communicate(timeout=PATIENCE)[0].splitlines()
        assert said == ["[Errno 13] Permission denied"] * 4
    group = subprocess.run(["getent", "group", str(NOBODY)], capture_output=True, text=True)
    name = group.stdout.partition(":")[0]
    with running(driver, tree, "--group", name) as path:
        held = run(*client.command(str(path), NAME, ["sh", "-c", "echo there; cat"]))
        assert line(held) == "there"
        process = run(sys.executable, "-c", code, str(path), json.dumps(asked))
        said = process.communicate(timeout=PATIENCE)[0].splitlines()
        assert "There is no group" in said[0]
        assert "There is no group" in said[1]
        assert [json.loads(each) for each in said[2:]] == [{"ok": True}] * 2
        assert sorted(each.parent.name for each in Groups(tree).all()) == ["0", str(NOBODY)]
        assert held.poll() is None, "it lives on"


def test_limits_are_never_more_than_a_gpu_has(driver: FakeDriver, service: str) -> None:
    driver.state.gpus[0].reserved = GIB
    client.make(service, NAME, {UUIDS[0]: 10 * GIB})
    with pytest.raises(EngineError, match="has no room"):
        client.make(service, OTHER, {UUIDS[0]: 6 * GIB})
    client.make(service, OTHER, {UUIDS[0]: 5 * GIB})
    with pytest.raises(EngineError, match="has no room"):
        client.set_limits(service, NAME, {UUIDS[0]: 11 * GIB})
    client.set_limits(service, NAME, {UUIDS[0]: 0})
    client.set_limits(service, OTHER, {UUIDS[0]: 15 * GIB})
    assert driver.limits() == {NAME: 0, OTHER: 15 * GIB}


def test_what_a_kernel_left_behind_counts_until_it_is_gone(
    driver: FakeDriver, tree: Path, service: str, run: Run
) -> None:
    """It has a session and an environment of its own: the group alone tells whose it is."""
    client.make(service, NAME, {UUIDS[0]: 8 * GIB})
    code = "import os, subprocess, sys\n"
    code += "env = {n: v for n, v in os.environ.items() if n != 'JUPYTER_GPU_SHARE_CLAIM'}\n"
    code += "print(subprocess.Popen(['sleep', '1000'], env=env, start_new_session=True).pid)"
    kernel = run(*inside(service, code))
    left = int(line(kernel))
    kernel.wait(PATIENCE)
    assert carriers(NAME) == [left]
    assert carriers_of({OTHER, "sleep"}) == {OTHER: [], "sleep": []}
    with pytest.raises(EngineError, match="Processes are left"):
        client.make(service, NAME, {UUIDS[0]: GIB})
    client.end(service, NAME)
    assert carriers(NAME) == []
    assert driver.limits() == {}
    assert not [path for path in tree.iterdir() if path.is_dir()]
    client.end(service, NAME)  # there is none, which is as well


def test_groups_of_servers_that_were_killed_are_swept(
    driver: FakeDriver, tree: Path, service: str, run: Run
) -> None:
    for name in (NAME, OTHER):
        client.make(service, name, {UUIDS[0]: 4 * GIB})
    run(*inside(service, "")).wait(PATIENCE)  # a kernel came and went; the other is still to come
    client.make(service, "c" * 32, {UUIDS[0]: 8 * GIB})
    assert sorted(driver.limits()) == [OTHER, "c" * 32]
    assert line(run(*inside(service, TAKE, group=OTHER))) == "3"


def test_one_that_trickles_is_hung_up_on(service: str) -> None:
    """All that is said counts as one wait: else a few such callers kept the others out."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(0.5)
        connection.connect(service)

        def hung_up() -> bool:
            try:
                connection.sendall(b" ")
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        end = time.monotonic() + PATIENCE
        while not hung_up():
            assert time.monotonic() < end, "it may go on for ever"


def test_a_group_that_nobody_joins_is_swept_in_time(driver: FakeDriver, tree: Path) -> None:
    """Its server was killed between two requests."""
    code = f"""
import sys
from pathlib import Path
from jupyter_gpu_share.limiter import _service
from jupyter_gpu_share.limiter._groups import Groups
_service._JOINING = float(sys.argv[2])
service = _service.Service(Groups(Path(sys.argv[1])))
peer = _service._Peer({os.getpid()}, 0)
for name in ("{NAME}", "{OTHER}"):
    service.do(peer, {{"do": "make", "group": name, "limits": {{"{UUIDS[0]}": 1}}}})
"""
    env = {**os.environ, **driver.env, "PYTHONPATH": str(ROOT)}
    for seconds, left in (("0", [OTHER]), ("60", [NAME, OTHER])):
        command = [sys.executable, "-c", code, str(tree), seconds]
        subprocess.run(command, check=True, timeout=PATIENCE, env=env)
        assert sorted(path.name for path in Groups(tree).all()) == left


def test_one_lost_gpu_stops_nobody(driver: FakeDriver, service: str) -> None:
    driver.state.gpus[1].lost = 1
    client.make(service, NAME, {UUIDS[0]: GIB})
    with pytest.raises(EngineError, match="no GPU"):
        client.make(service, OTHER, {UUIDS[1]: GIB})
    assert driver.limits() == {NAME: GIB}, "nothing is left of what was refused"


def test_a_limit_that_is_not_taken_is_seen_and_leaves_the_others_as_they_were(
    driver: FakeDriver, service: str
) -> None:
    client.make(service, NAME, {UUIDS[0]: GIB, UUIDS[1]: GIB})
    driver.state.gpus[1].stubborn = 1
    with pytest.raises(EngineError, match="has not taken the limit"):
        client.set_limits(service, NAME, {UUIDS[0]: 0, UUIDS[1]: 0})
    assert (driver.limits(0), driver.limits(1)) == ({NAME: GIB}, {NAME: GIB})
    with pytest.raises(EngineError, match="has not taken the limit"):
        client.make(service, OTHER, {UUIDS[0]: GIB})
    driver.state.gpus[1].stubborn = 0
    assert driver.limits(0) == {NAME: GIB}


def test_a_driver_that_has_no_limits(driver: FakeDriver, service: str, tree: Path) -> None:
    driver.state.old = 1
    with pytest.raises(EngineError, match="driver 615"):
        client.make(service, NAME, {UUIDS[0]: GIB})
    assert not list(Groups(tree).all())


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"\n",
        b"[]\n",
        b"x" * 20000,
        b'{"do": "make", "group": "../../system.slice", "limits": {"GPU-0": 1}}\n',
        b'{"do": "make", "group": "' + NAME.encode() + b'", "limits": {}}\n',
        b'{"do": "make", "group": "' + NAME.encode() + b'", "limits": {"GPU-0": -1}}\n',
        b'{"do": "make", "group": "' + NAME.encode() + b'", "limits": {"GPU-0": true}}\n',
        b'{"do": "kill", "group": "' + NAME.encode() + b'"}\n',
    ],
)
def test_what_is_no_request_is_refused(request_: bytes, service: str, tree: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(service)
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as stream:
            assert "error" in json.loads(stream.readline())
    assert not list(Groups(tree).all())


def test_one_that_says_nothing_holds_up_nobody(service: str) -> None:
    with ExitStack() as stack:
        for _ in range(8):
            silent = stack.enter_context(socket.socket(socket.AF_UNIX))
            silent.connect(service)
        client.make(service, NAME, {UUIDS[0]: GIB})


@pytest.mark.parametrize(
    ("options", "root", "words"),
    [
        ([], False, "run this as root"),
        (["--tree", "/tmp/x"], True, "no place for control groups"),
        (["--group", "nobody-has-this"], True, "no group of users"),
    ],
)
def test_it_says_why_it_cannot_run(
    options: list[str],
    root: bool,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else NOBODY)
    assert main(options) == 1
    assert words in capsys.readouterr().err


# -- on a FAKE tree of files: what this machine's control groups do not have -----------------------


@pytest.fixture
def fake_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups that are only files, where this process is in "here/server"."""
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    (root / "here" / "server").mkdir(parents=True)
    (proc / str(os.getpid())).mkdir(parents=True)
    (proc / str(os.getpid()) / "cgroup").write_text("1:cpu:/\n0::/here/server\n")
    ids = "\t".join([str(os.getuid())] * 4)
    (proc / str(os.getpid()) / "status").write_text(f"Name:\tx\nUid:\t{ids}\n")
    monkeypatch.setattr(_groups, "_PROC", proc)
    monkeypatch.setattr(_groups, "mounted", lambda: root)
    return root


@pytest.mark.parametrize("bound", ["memory.max", "memory.high", "cpu.max"])
@pytest.mark.parametrize("where", ["here", "here/server"])
def test_nobody_escapes_limits_of_the_machine_by_coming_into_a_group(
    bound: str, where: str, fake_tree: Path
) -> None:
    groups = Groups(fake_tree / "tree")
    path = groups.make(os.getuid(), NAME)
    (fake_tree / where / bound).write_text("1000000 100000\n")
    with pytest.raises(GroupsError, match="must not leave"):
        groups.join(path, os.getpid(), os.getuid())
    assert not (path / "cgroup.procs").exists(), "it was not moved"
    below = Groups(fake_tree / where / "tree")
    path = below.make(os.getuid(), NAME)
    with pytest.raises(GroupsError, match="is gone"):  # nothing moves a process between files
        below.join(path, os.getpid(), os.getuid())
    assert (path / "cgroup.procs").read_text() == str(os.getpid())


def test_limits_that_are_none_hold_nobody(fake_tree: Path) -> None:
    (fake_tree / "here" / "memory.max").write_text("max\n")
    (fake_tree / "here" / "cpu.max").write_text("max 100000\n")
    groups = Groups(fake_tree / "tree")
    path = groups.make(os.getuid(), NAME)
    with pytest.raises(GroupsError, match="is gone"):
        groups.join(path, os.getpid(), os.getuid())
    assert (path / "cgroup.procs").exists()


def test_a_program_with_the_rights_of_somebody_else_is_not_moved(fake_tree: Path) -> None:
    """A user can start one, which is not the user's to move."""
    groups = Groups(fake_tree / "tree")
    path = groups.make(1000, NAME)
    with pytest.raises(GroupsError, match="rights of another user"):
        groups.join(path, os.getpid(), 1000)


def test_the_controller_of_the_drivers_memory_is_put_on_at_every_level(fake_tree: Path) -> None:
    """Linux from 6.14 on has one. Where a level has it not, those below cannot have limits."""
    levels = [fake_tree, fake_tree / "tree", fake_tree / "tree" / "1000"]
    for level in levels:
        level.mkdir(exist_ok=True)
        (level / "cgroup.controllers").write_text("cpu dmem memory\n")
    Groups(fake_tree / "tree").make(1000, NAME)
    assert [(level / "cgroup.subtree_control").read_text() for level in levels] == ["+dmem"] * 3


def test_the_unit_of_systemd_runs_what_there_is() -> None:
    unit = (ROOT / "etc/systemd/jupyter-gpu-share-limiter.service").read_text()
    (line_,) = [each for each in unit.splitlines() if each.startswith("ExecStart=")]
    words = shlex.split(line_)
    assert words[1:4] == ["-I", "-m", "jupyter_gpu_share.limiter"]
    asked = parser().parse_args(words[4:])
    assert asked.socket.parent == Path("/run/jupyter-gpu-share")
    assert "RuntimeDirectory=jupyter-gpu-share\n" in unit
