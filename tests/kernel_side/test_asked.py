"""Questions of the server to a real kernel, seen beside what its threads and interrupts do."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from asking import Asked
from sessions import Session, Sessions
from waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow

#: Variables that take a kernel long to look through, by Python code of their own.
LONG = (
    "import threading, time\n"
    "class Slow:\n"
    "    def __reduce__(self):\n"
    "        open(MARK, 'w').close()\n"
    "        for _ in range(3000): time.sleep(0.01)\n"
    "        return Slow, ()\n"
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """The kernels of these tests."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"), ahead=1)) as made:
        yield made


@pytest.fixture
def asked(house: Sessions) -> Asked:
    """A kernel of its own."""
    return Asked(house.start())


def interrupt(session: Session) -> None:
    os.kill(session.process.pid, signal.SIGINT)


async def test_what_threads_put_out_stays_under_the_cell_that_started_them(asked: Asked) -> None:
    asked.run("import threading, time, sys; from IPython.display import display, HTML")
    asked.ask("present")
    cell = asked.run(
        "go = True\n"
        "def talk():\n"
        "    n = 0\n"
        "    while go:\n"
        "        print('line', n); sys.stderr.write(f'error {n}\\n')\n"
        "        display(HTML(f'shown {n}')); n += 1\n"
        # A client that reads slower than that misses messages, the last one among them.
        "        time.sleep(0.02)\n"
        "thread = threading.Thread(target=talk); thread.start()"
    )
    for _ in range(5):
        asked.ask("survey")
        asked.ask("signs")
    seen = len(asked.heard)
    await eventually(lambda: asked.hear(1.0) and len(asked.heard) > seen + 30, "it talks on")
    said = [each for each in asked.heard if each["msg_type"] in ("stream", "display_data")]
    assert len(said) > 30
    assert {each["parent_header"].get("msg_id") for each in said} == {cell}
    asked.run("go = False; thread.join()")
    mine = asked.run("print('mine')")
    texts = [
        each["content"]["text"]
        for each in asked.heard
        if each["msg_type"] == "stream" and each["parent_header"]["msg_id"] == mine
    ]
    assert "".join(texts) == "mine\n"


async def test_after_the_first_question_too_output_of_threads_goes_to_the_latest_cell(
    asked: Asked,
) -> None:
    cell = asked.run(
        "import threading, time\n"
        "go = True\n"
        "def talk():\n"
        "    while go: print('line'); time.sleep(0.001)\n"
        "threading.Thread(target=talk).start()"
    )
    asked.ask("survey")
    seen = len(asked.heard)
    await eventually(lambda: asked.hear(1.0) and len(asked.heard) > seen + 5, "it talks on")
    said = [each for each in asked.heard if each["msg_type"] == "stream"]
    assert {each["parent_header"].get("msg_id") for each in said[-3:]} == {cell}
    asked.run("go = False")


def test_a_message_of_a_thread_to_a_widget_is_none_of_the_question(asked: Asked) -> None:
    if not asked.session.value("hasattr(get_ipython().kernel, '_shell_context')"):
        pytest.skip("this ipykernel takes the request that it works on for all of them")
    asked.run("import threading, comm; c = comm.create_comm(target_name='t')")
    asked.ask("present")
    cell = asked.run(
        "class Sending:\n"
        "    def __reduce__(self):\n"
        "        t = threading.Thread(target=c.send, args=({'a': 1},)); t.start(); t.join()\n"
        "        return Sending, ()\n"
        "s = Sending()"
    )
    asked.ask("survey")
    (sent,) = [each for each in asked.heard if each["msg_type"] == "comm_msg"]
    assert sent["parent_header"]["msg_id"] == cell


def test_without_a_cell_before_it_output_of_threads_has_no_parent(asked: Asked) -> None:
    asked.ask("present")
    asked.ask("signs")
    parent = asked.session.value("__import__('sys').stdout._parent_header_global.get('x')")
    assert parent is None
    assert asked.ask("unheard of") == {"error": "'unheard of'"}


@pytest.mark.parametrize("last", [None, [1], "x", {"msg_id": ["a"], "session": {}, "date": "d"}])
async def test_whatever_a_question_names_as_the_latest_cell_threads_can_print(
    asked: Asked, last: Any, tmp_path: Path
) -> None:
    go, done = tmp_path / "go", tmp_path / "done"
    asked.run(
        "import os, threading, time\n"
        "def talk():\n"
        f"    while not os.path.exists({str(go)!r}): time.sleep(0.005)\n"
        f"    print('on'); open({str(done)!r}, 'w').close()\n"
        "threading.Thread(target=talk).start()"
    )
    asked.last_cell = last
    assert asked.ask("present")["result"]["version"] == 1
    go.touch()
    await eventually(done.exists, "it has printed")


@pytest.mark.parametrize("what", ["survey", "signs", "limits", "save"])
async def test_a_question_is_cut_short_by_an_interrupt(
    asked: Asked, what: str, tmp_path: Path
) -> None:
    mark, target = tmp_path / "mark", tmp_path / "kept"
    asked.run(LONG.replace("MARK", repr(str(mark))) + "a = 1; s = Slow()")
    slow = "lambda: s.__reduce__()"
    asked.run(
        "from gpu_share_kernel import background, limits\n"
        f"background.running = {slow}; limits.look = {slow}"
    )
    options: dict[str, Any] = {}
    if what == "save":
        options = {"path": str(target), "limit": 2**30, "allowed": []}
    sent = asked.send(what, **options)
    await eventually(mark.exists, "it is at work")
    interrupt(asked.session)
    assert asked.answer(sent) == {"error": "interrupted"}
    assert sorted(tmp_path.iterdir()) == [mark]
    asked.run("b = a + 1")
    assert asked.session.value("b") == 2


async def test_an_interrupt_that_somebodys_code_swallows_is_none_the_less(
    asked: Asked, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    asked.run(
        "import time\n"
        "class Deaf:\n"
        "    def __reduce__(self):\n"
        f"        open({str(mark)!r}, 'w').close()\n"
        "        try: time.sleep(30)\n"
        "        except BaseException: pass\n"
        "        return Deaf, ()\n"
        "class Late:\n"
        "    def __reduce__(self):\n"
        f"        open({str(mark)!r} + '2', 'w').close()\n"
        "        return Late, ()\n"
        "first = Deaf(); second = Late()"
    )
    sent = asked.send("survey")
    await eventually(mark.exists, "it is at work")
    interrupt(asked.session)
    assert asked.answer(sent) == {"error": "interrupted"}
    assert not Path(f"{mark}2").exists()


@pytest.mark.parametrize("what", ["vacate", "resume", "limit", "restore"])
async def test_what_must_not_be_cut_in_half_goes_on_to_its_end(
    asked: Asked, what: str, tmp_path: Path
) -> None:
    mark, go = tmp_path / "mark", tmp_path / "go"
    asked.run(
        "import os, time\n"
        "from gpu_share_kernel import asked\n"
        "def slow(**arguments):\n"
        f"    open({str(mark)!r}, 'w').close()\n"
        f"    while not os.path.exists({str(go)!r}): time.sleep(0.005)\n"
        "    return 'whole'\n"
        f"asked._WORK[{what!r}] = slow"
    )
    sent = asked.send(what)
    await eventually(mark.exists, "it is at work")
    interrupt(asked.session)
    interrupt(asked.session)
    go.touch()
    assert asked.answer(sent) == {"result": "whole"}
    # Afterwards an interrupt is one again.
    cell = asked._send(f"import os; open({str(go)!r} + '2', 'w').close(); time.sleep(60)", {},
                       silent=False)  # fmt: skip
    await eventually(Path(f"{go}2").exists, "the cell runs")
    interrupt(asked.session)
    asked._until_idle(cell["msg_id"])
    assert asked.heard[-2]["content"]["ename"] == "KeyboardInterrupt"


def test_an_interrupt_never_costs_the_answer(asked: Asked) -> None:
    """At whatever moment it comes: ipykernel itself would lose the reply at some."""
    asked.run("a = 1")
    asked.ask("present")
    pid = asked.session.process.pid
    asked.run(
        "import os, signal, threading, time\n"
        "def shoot():\n"
        "    for _ in range(3000): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.0003)\n"
        "def aim():\n"
        "    time.sleep(0.05); shoot()\n"
        "threading.Thread(target=aim).start()"
    )
    for _ in range(60):
        content = asked.ask("survey")
        assert content.get("error", "interrupted") == "interrupted"
    assert asked.session.process.pid == pid
    assert asked.session.client.is_alive


def test_a_kernel_says_that_these_files_are_there(house: Sessions) -> None:
    asked = Asked(house.start(JUPYTER_GPU_SHARE_MEMORY_BYTES="123"))
    assert asked.ask("present") == {"result": {"version": 1, "memory_bytes": "123"}}


def test_subshells_get_the_ids_that_pages_know(asked: Asked) -> None:
    ids = ["11111111-2222-3333-4444-555555555555", "other"]
    made = asked.ask("subshells", ids=ids)["result"]
    if not made:
        pytest.skip("this ipykernel has no subshells")
    assert made == ids
    assert asked.ask("subshells", ids=[*ids, 5, "third"])["result"] == ["third"]
    # What is sent there runs, and one of a page of its own has an id of its own.
    client = asked.client
    message = client.session.msg("execute_request", {"code": "x = 5", "silent": False})
    message["header"]["subshell_id"] = ids[0]
    client.shell_channel.send(message)
    while (reply := client.get_shell_msg(timeout=PATIENCE))["parent_header"].get(
        "msg_id"
    ) != message["header"]["msg_id"]:
        pass
    assert reply["content"]["status"] == "ok"
    assert asked.session.value("x") == 5
    control = client.session.msg("create_subshell_request", {})
    client.control_channel.send(control)
    fresh = client.get_control_msg(timeout=PATIENCE)["content"]["subshell_id"]
    assert len(fresh) == 36 and fresh not in ids


def test_where_there_are_no_subshells_none_are_made(asked: Asked) -> None:
    asked.run(
        "from gpu_share_kernel import subshells\n"
        "class Old: pass\n"
        "found = [subshells.make(Old(), ['a']), subshells.make(None, None)]"
    )
    assert asked.session.value("found") == [[], []]


async def test_a_line_is_shown_above_the_next_cell_and_no_other(asked: Asked) -> None:
    """Before any cell there is nothing under which a page would show it."""
    assert asked.ask("say", line="It is lost.") == {"result": None}
    assert asked.ask("signs")["result"]
    cells = [asked.run(code) for code in ("", "print('here')", "print('there')")]
    told = [
        (cells.index(each["parent_header"]["msg_id"]), each["content"]["text"])
        for each in asked.heard
        if each["msg_type"] == "stream"
    ]
    assert told == [(1, "It is lost.\n"), (1, "here\n"), (2, "there\n")]
