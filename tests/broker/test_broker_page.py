"""The broker's page: what it shows to whom, what its buttons do, and who gets at it."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from broker_users import ANN, BOB, RunningBroker, User, user
from waiting import PATIENCE

from jupyter_gpu_share.broker.client import BrokerClient, BrokerRefused
from jupyter_gpu_share.broker.orders import PAUSED
from jupyter_gpu_share.broker.page._html import View, document
from jupyter_gpu_share.cli import main

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
GOES = "It goes at 12:05 unless it is used."
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[2J&amp;\u202e'

# -- what it shows -------------------------------------------------------------------------------


def share(kernel: str, **other: Any) -> dict[str, Any]:
    return {
        "kernel_id": kernel,
        "size": "1/2",
        "state": "held",
        "pieces": [{"uuid": "GPU-1", "memory_bytes": 40 * 2**30}],
        "queue": {"position": 0, "of": 0},
        "reason": "",
        "info": {"user": "ann", "uid": 7, "path": f"{kernel}.ipynb"},
        "held_since": (NOON - timedelta(hours=2)).isoformat(),
        "idle_seconds": None,
        "asked_back": False,
        "keep_until": None,
        "promise": None,
        "room_at": None,
        **other,
    }


def view(*shares: Any, administrator: bool = True, **other: Any) -> View:
    gpu = {
        "model": "A100",
        "memory_bytes": 80 * 2**30,
        "held_bytes": 40 * 2**30,
        "other_bytes": 3 * 2**30,
        "kernels": 1,
    }
    you = {"uid": 0, "user": "root", "administrator": administrator}
    machine = {"you": you, "paused": False, "gpus": [gpu], **other.pop("machine", {})}
    return View(machine, shares, other.pop("usage", []), NOON, "the-proof", **other)


class Seen(HTMLParser):
    """The page's elements, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def test_it_shows_what_is_held_who_waits_and_what_was_held() -> None:
    waiting = share(
        "w",
        state="waiting",
        pieces=[],
        queue={"position": 3, "of": 4},
        reason="It needs 40 GiB.",
        held_since=None,
    )
    days = [
        {
            "day": day,
            "of": "user",
            "name": "ann",
            "held": held,
            "used": held,
            "idle": 0.0,
            "given_back": 900.0,
        }
        for day, held in (("2026-03-01", 3600.0), ("2026-02-23", 1800.0), ("2026-02-22", 9e9))
    ]
    seen = Seen(document(view(share("a", idle_seconds=200.0), waiting, usage=days)))
    assert re.search(r"ann +a\.ipynb +1/2 +40 GiB +10:00 +3 min", seen.text)
    assert re.search(r"3 +ann +w\.ipynb +1/2 +It needs 40 GiB\.", seen.text)
    assert re.search(r"A100 +80 GiB +40 GiB +3 GiB +1", seen.text)
    assert re.search(r"user ann +1\.50 +1\.50 +0\.00 +0\.50", seen.text), "the last seven days"
    older = Seen(document(view(share("a", held_since=(NOON - timedelta(days=3)).isoformat()))))
    assert "26 Feb 12:00" in older.text


def promise(*waiting: dict[str, Any], due: int = 5) -> dict[str, Any]:
    """A promise that is due in some minutes."""
    moment = NOON + timedelta(minutes=due)
    asked, taken = NOON - timedelta(minutes=1), moment + timedelta(minutes=1)
    times = {"asked": asked, "due": moment, "taken": taken}
    return {**{name: each.isoformat() for name, each in times.items()}, "for": list(waiting)}


def waiter(user: str | None, path: str | None = None) -> dict[str, Any]:
    kernel_id = "0123456789ab" if user else None
    return {"uid": 8, "user": user, "kernel_id": kernel_id, "path": path, "size": "1/2"}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, ""),
        (
            {"promise": promise(waiter("bob", "b.ipynb"))},
            f"bob's b.ipynb (1/2) waits for it. {GOES}",
        ),
        (
            {"promise": promise(waiter("b"), waiter(None))},
            f"b's 01234567 (1/2) and another user's kernel (1/2) wait for it. {GOES}",
        ),
        (
            {"promise": promise(waiter("bob"), due=-1)},
            "bob's 01234567 (1/2) waits for it. It was due at 11:59, and is taken at 12:00.",
        ),
        ({"promise": promise()}, f"It is asked back. {GOES}"),
        ({"asked_back": True}, "It is asked back."),
        ({"keep_until": (NOON + timedelta(hours=1)).isoformat()}, "Kept until 13:00, used or not."),
        ({"keep_until": NOON.isoformat()}, ""),
    ],
)
def test_what_becomes_of_an_idle_share_is_said(told: dict[str, Any], words: str) -> None:
    text = " ".join(Seen(document(view(share("a", idle_seconds=200.0, **told)))).text.split())
    found = re.search(r"10:00 3 min\. (.*?) Ask back", text)
    assert (found.group(1) if found else "") == words


def test_what_is_asked_back_while_it_is_used_is_said() -> None:
    text = " ".join(Seen(document(view(share("a", asked_back=True)))).text.split())
    assert "10:00 It is asked back, and goes once it is unused. Ask back" in text
    assert "10:00 - Ask back" in " ".join(Seen(document(view(share("a")))).text.split())


def test_who_waits_sees_when_idle_shares_go_for_it() -> None:
    at = (NOON + timedelta(minutes=5)).isoformat()
    waiting = share("w", state="waiting", reason="It needs 40 GiB.", room_at=at)
    text = Seen(document(view(waiting, administrator=False))).text
    assert "It needs 40 GiB. Idle shares go for it at 12:05 unless they are used." in text


def test_processes_without_a_share_are_shown_to_administrators() -> None:
    process = {
        "pid": 4711,
        "uid": 7,
        "user": "bob",
        "command": HOSTILE,
        "used_bytes": {"GPU-1": 2**30, "GPU-2": None},
        "since": (NOON - timedelta(minutes=5)).isoformat(),
    }
    seen = Seen(document(view(processes=[process])))
    assert re.search(r"bob +4711 +.*script.* +1 GiB +11:55", seen.text)
    assert not seen.tags() & {"script", "img"}
    untold = {**process, "used_bytes": {"GPU-1": None}}
    assert re.search(r"4711 +.* - +11:55", Seen(document(view(processes=[untold]))).text)
    assert "Processes" not in document(view(administrator=False))


def test_what_users_name_is_text() -> None:
    info = {"user": HOSTILE, "uid": 7, "path": HOSTILE}
    named = {**waiter(HOSTILE, HOSTILE), "size": HOSTILE}
    bad = share(HOSTILE, info=info, size=HOSTILE, promise=promise(named))
    row = {"day": "2026-03-01", "of": "group", "name": HOSTILE}
    row |= dict.fromkeys(("held", "used", "idle", "given_back"), 1.0)
    waiting = {**bad, "state": "waiting", "reason": HOSTILE}
    text = document(view(bad, waiting, usage=[row], notice=HOSTILE))
    plain = Seen(document(view(share("a"), {**share("b"), "state": "waiting"}, usage=[row])))
    seen = Seen(text)
    assert not seen.tags() - plain.tags() - {"p"}
    assert not {name for _, attrs in seen.elements for name in attrs if name.startswith("on")}
    assert "<script" not in text and "\x1b" not in text
    assert seen.text.count("alert(1)") >= 8, "it is shown"


def test_a_user_has_no_buttons_and_an_administrator_has() -> None:
    assert "form" not in Seen(document(view(share("a"), administrator=False))).tags()
    forms = Seen(document(view(share("a")))).elements
    done = [attrs["value"] for tag, attrs in forms if tag == "input" and attrs["name"] == "do"]
    assert done == ["pause", "release", "end"]
    paused = Seen(document(view(administrator=False, machine={"paused": True})))
    assert "No new shares are given out for now." in paused.text


# -- who gets at it ------------------------------------------------------------------------------

_PAGE = """
import asyncio, os, sys
from pathlib import Path
from jupyter_gpu_share.broker import client  # before it is a user who may not read it
from jupyter_gpu_share.broker.page import serve
user = int(sys.argv[2])
if user:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
asyncio.run(serve(Path(sys.argv[1]), 0, lambda address: print(address, flush=True)))
"""


class Browser:
    """Asks the page as a browser does that was given its address."""

    def __init__(self, address: str) -> None:
        found = urlsplit(address)
        assert found.hostname == "127.0.0.1"
        self.port = found.port
        self.query = found.query
        self.cookie = ""
        status, headers, _ = self.ask("GET", f"/?{self.query}")
        assert (status, headers["Location"]) == (303, "/")
        assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
        self.cookie = headers["Set-Cookie"].partition(";")[0]

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> tuple[int, Any, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        sent = {"Cookie": self.cookie, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request(method, path, body, {**sent, **headers})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, answer.headers, text

    def page(self) -> str:
        status, _, text = self.ask("GET", "/")
        assert status == 200, text
        return text

    def press(self, do: str, **fields: str) -> tuple[int, str]:
        found = re.search(r'name="proof" value="([0-9a-f]+)"', self.page())
        proof = fields.pop("proof", found.group(1) if found else "")
        status, _, text = self.ask("POST", "/do", urlencode({"do": do, "proof": proof, **fields}))
        return status, text


@contextmanager
def page_of(uid: int, broker: RunningBroker) -> Iterator[Browser]:
    command = [sys.executable, "-c", _PAGE, str(broker.socket), str(uid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Browser(first_line(process))
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
    assert ready, "it said nothing"
    return process.stdout.readline().strip()


@pytest.fixture
def page(broker: RunningBroker) -> Iterator[Browser]:
    """Root's."""
    with page_of(0, broker) as own:
        yield own


def test_nobody_gets_in_without_the_secret(page: Browser, ann: User) -> None:
    ann.claim("a", "1/2", info={"path": "secret.ipynb"})
    assert "secret.ipynb" in page.page()
    _, headers, _ = page.ask("GET", "/")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'")
    assert headers["Cache-Control"] == "no-store"
    assert page.ask("GET", "/style.css")[0] == 200
    others = [{"Cookie": ""}, {"Cookie": f"gpu-share-page-{page.port}=x"}, {"Host": "evil.example"}]
    for each in others:
        for method, path in (("GET", "/"), ("POST", "/do"), ("GET", "/style.css")):
            status, _, text = page.ask(method, path, **each)
            assert (status, "secret" in text) == (403, False), (each, path)
    status, headers, _ = page.ask("GET", f"/?{page.query}", Cookie="", Host="evil.example")
    assert (status, headers["Set-Cookie"]) == (403, None)
    assert page.ask("GET", "/?token=x", Cookie="")[0] == 403
    assert page.ask("GET", "/nothing")[0] == 404


def test_only_the_page_itself_presses_buttons(page: Browser, ann: User) -> None:
    ann.claim("a", "1/2")
    for proof in ("", "0" * 64, page.query.partition("=")[2]):
        status, text = page.press("end", uid=str(ANN), kernel="a", proof=proof)
        assert status == 403, text
    assert ann.kernels() == {"a": "held"}
    for fields in ({}, {"uid": "x", "kernel": "a"}, {"uid": "1", "kernel": "../../shares"}):
        assert page.press("end", **fields)[0] == 400
    assert page.press("other", uid=str(ANN), kernel="a")[0] == 400


def test_an_administrator_ends_a_kernel(page: Browser, ann: User, bob: User) -> None:
    ann.claim("a", "1")
    assert bob.claim("b", "1/2")["state"] == "waiting"
    assert "It needs 40 GiB of one GPU" in page.page()
    child = ann.ok("child")
    ann.ok("PATCH", "/v1/shares/a", {"kernel_pid": child})
    assert page.press("end", uid=str(ANN), kernel="a")[0] == 303
    assert (ann.kernels(), bob.kernels()) == ({}, {"b": "held"})
    status, text = page.press("end", uid=str(ANN), kernel="a")
    assert status == 409
    assert f"User {ANN} has no kernel a with a claim." in text


def test_an_administrator_asks_a_share_back(page: Browser, ann: User, bob: User) -> None:
    """Its server gives it by its rule as if somebody waited: once it is idle, until it has gone."""
    ann.claim("a", "1/4")
    ann.claim("other", "1/4")
    bob.claim("b", "1/4")
    assert page.press("release", uid=str(ANN), kernel="a")[0] == 303
    nothing = {"wanted": {}, "taken": [], "waiting": False}
    assert ann.ok("PUT", "/v1/idle", {"kernels": {"other": 50.0}}) == nothing, "it is used"
    assert bob.ok("PUT", "/v1/idle", {"kernels": {"b": 900.0}}) == nothing
    for _ in range(2):
        asked = ann.ok("PUT", "/v1/idle", {"kernels": {"a": 5.0, "other": 50.0}})
        assert asked == {"wanted": {"a": None}, "taken": [], "waiting": True}
    ann.ok("DELETE", "/v1/shares/a")
    ann.claim("a", "1/4")
    assert ann.ok("PUT", "/v1/idle", {"kernels": {"a": 5.0}}) == nothing, "it has gone"
    assert page.press("release", uid=str(ANN), kernel="none")[0] == 409
    assert "5 s" in page.page()


def test_an_administrator_pauses(page: Browser, broker: RunningBroker, ann: User) -> None:
    """What is held stays, nothing new is given out, and a restart does not end it."""
    ann.claim("a", "1/4")
    assert page.press("pause")[0] == 303
    assert ann.ask("PUT", "/v1/shares/b", {"size": "1/4"}) == (409, PAUSED)
    assert ann.ok("POST", "/v1/fits", {"sizes": ["1/4", "0"], "kernel_id": None}) == [PAUSED, None]
    assert ann.claim("a", "1/4")["state"] == "held"
    assert ann.claim("none", "0")["state"] == "held"
    broker.kill()
    broker.start()
    assert ann.ask("PUT", "/v1/shares/b", {"size": "1/4"}) == (409, PAUSED)
    assert "No new shares are given out for now." in page.page()
    assert page.press("resume")[0] == 303
    assert ann.claim("b", "1/4")["state"] == "held"


def test_a_user_sees_their_own_and_may_do_nothing_more(
    broker: RunningBroker, ann: User, bob: User
) -> None:
    ann.claim("a", "1/2", info={"path": "hers.ipynb"})
    bob.claim("b", "1/4", info={"path": "his.ipynb"})
    with page_of(BOB, broker) as page:
        text = page.page()
        assert "his.ipynb" in text and "hers" not in text and str(ANN) not in text
        assert "Your GPU shares" in text and "<form" not in text
        # A proof that is right in form: the broker refuses, whatever a browser sends.
        token = page.query.partition("=")[2]
        proof = hmac.new(token.encode(), b"form", hashlib.sha256).hexdigest()
        for do in ("end", "release", "pause"):
            status, text = page.press(do, uid=str(ANN), kernel="a", proof=proof)
            assert status == 409
            assert "Only an administrator of the broker may do that." in text
    assert ann.kernels() == {"a": "held"}
    for method, path, body in (
        ("PUT", "/v1/admin/pause", {"paused": True}),
        ("POST", f"/v1/admin/shares/{ANN}/a/release", {}),
    ):
        assert bob.ask(method, path, body)[0] == 403
    (row,) = bob.ok("GET", "/v1/details")
    assert row["kernel_id"] == "b"
    assert row["held_since"] is not None


def test_the_broker_is_away(page: Browser, broker: RunningBroker) -> None:
    broker.kill()
    status, _, text = page.ask("GET", "/")
    assert status == 503
    assert "The broker of this machine does not answer" in text


def test_since_when_outlives_the_broker(broker: RunningBroker, ann: User) -> None:
    ann.claim("a", "1/4")
    (before,) = ann.ok("GET", "/v1/details")
    broker.kill(signal.SIGTERM)
    broker.start()
    (after,) = ann.ok("GET", "/v1/details")
    assert before["held_since"] == after["held_since"] is not None


# -- the command ---------------------------------------------------------------------------------


def test_the_command_shows_it(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUPYTER_GPU_SHARE_BROKER", str(broker.socket))
    command = [*broker.command[: broker.command.index("broker")], "page"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = first_line(process).removeprefix("Open ")
            own = Browser(address)
            assert "GPU shares of all users" in own.page()
            assert main(["page", "--port", str(own.port)]) == 1
            assert f"The page cannot use port {own.port}" in capsys.readouterr().err
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 0


def test_what_the_command_cannot_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["page", "--port", "70000"])
    assert "is no port" in capsys.readouterr().err
    monkeypatch.setenv("JUPYTER_GPU_SHARE_BROKER", "no path")
    assert main(["page"]) == 1
    assert "is no path of a socket" in capsys.readouterr().err


def test_orders_are_for_what_is_there(broker: RunningBroker) -> None:
    root = BrokerClient(broker.socket)
    with user(ANN, broker.socket) as ann:
        ann.claim("a", "1")
        ann.claim("w", "1")
        assert ann.kernels() == {"a": "held", "w": "waiting"}
        with pytest.raises(BrokerRefused, match="has no kernel w with a share"):
            root.ask("POST", f"/v1/admin/shares/{ANN}/w/release", {})
        with pytest.raises(BrokerRefused, match="no field paused"):
            root.ask("PUT", "/v1/admin/pause", {})
    root.close()
