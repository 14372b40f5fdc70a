"""Which broker counts for a user's programs where the environment names one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jupyter_gpu_share.broker import client
from jupyter_gpu_share.broker.client import BROKER, BrokerAway, BrokerClient, which_broker
from jupyter_gpu_share.cli._brokers import broker_socket
from jupyter_gpu_share.engines.local._home import find_home

FOUND = [
    # what is at the usual place, what the named one is, which counts
    (False, "real", "named"),
    (True, "real", "usual"),
    (True, "simulated", "named"),
    (True, "", "usual"),
    (False, "", ""),
]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with sockets `usual` and `named`, of which the second may answer."""

    def ask(self: BrokerClient, method: str, path: str) -> Any:
        assert (method, path) == ("GET", "/v1/machine")
        told = self.path.read_text()
        if told == "away":
            raise BrokerAway("It does not answer.")
        return {"simulation": "1xL4-24GB" if told == "simulated" else "", "you": {"user": "ann"}}

    monkeypatch.setattr(BrokerClient, "ask", ask)
    monkeypatch.setattr(client, "DEFAULT_SOCKET", str(tmp_path / "usual"))
    return tmp_path


@pytest.mark.parametrize(("at_home", "named", "counts"), FOUND)
def test_servers_and_commands_ask_the_same_broker(
    machine: Path, monkeypatch: pytest.MonkeyPatch, at_home: bool, named: str, counts: str
) -> None:
    monkeypatch.delenv(BROKER, raising=False)
    if at_home:
        (machine / "usual").write_text("real")
    if named:
        (machine / "named").write_text(named)
        monkeypatch.setenv(BROKER, str(machine / "named"))
    wanted = machine / counts if counts else None
    assert find_home("").broker == wanted
    assert which_broker() == wanted
    if wanted is not None:
        assert broker_socket("nothing is") == wanted


def test_a_named_broker_that_is_away_is_no_reason_to_ask_another(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / "usual").write_text("real")
    (machine / "named").write_text("away")
    monkeypatch.setenv(BROKER, str(machine / "named"))
    for ask in (which_broker, lambda: find_home(""), lambda: broker_socket("nothing is")):
        with pytest.raises(BrokerAway):
            ask()


def test_the_machines_own_is_not_asked_which_it_is(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is shown while it is away, and says so."""
    (machine / "usual").write_text("away")
    monkeypatch.delenv(BROKER, raising=False)
    assert broker_socket("nothing is") == machine / "usual"
