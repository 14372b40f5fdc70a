"""A machine with a broker as users and its administrator see it, and what it is started by."""

from __future__ import annotations

import configparser
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from broker_users import ANN, RunningBroker, User
from servers import run_server, stop_server, until
from waiting import PATIENCE, eventually

from jupyter_gpu_share.broker.client import BROKER, DEFAULT_SOCKET, BrokerClient
from jupyter_gpu_share.broker.daemon import LocalBroker
from jupyter_gpu_share.cli import main
from jupyter_gpu_share.runtime import Runtime

UNITS = Path(__file__).parents[2] / "etc" / "systemd"


def test_a_server_finds_the_broker_and_needs_no_setting(
    broker: RunningBroker, ann: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BROKER, str(broker.socket))
    monkeypatch.delenv("JUPYTER_DEFAULT_PROVISIONER_NAME", raising=False)
    ann.claim("hers", "1/2")
    server = run_server(tmp_path, simulate="")
    root = BrokerClient(broker.socket)
    try:
        kernel = server.start_kernel("1/4")
        row = server.wait_for(kernel, "active")
        assert row["user"] in (None, "root")
        assert row["share"]["memory_bytes"] == 20 * 2**30
        assert server.run_cell(kernel, "print(6 * 7)") == "42"
        (gpu,) = server.ok("gpu-share/status")["gpus"]
        assert gpu["free_bytes"] == 20 * 2**30
        server.ok(f"gpu-share/allocations/{kernel}/release", "POST", {"lose_variables": True})
        assert ann.claim("more", "1/2")["state"] == "held"
        until(lambda: given_back(root) > 0, "its notebook goes on")
    finally:
        stop_server(server)
    assert {row["kernel_id"] for row in root.ask("GET", "/v1/admin/shares")} == {"hers", "more"}
    assert given_back(root) == given_back(root), "it has ended"
    root.close()


def given_back(root: BrokerClient) -> float:
    """GPU-seconds of root's kernels."""
    return sum(row["given_back"] for row in root.ask("GET", "/v1/usage"))


def test_root_lists_the_kernels_of_all_users(
    broker: RunningBroker,
    ann: User,
    bob: User,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(BROKER, str(broker.socket))
    ann.claim("a", "3/4", info={"path": "<img onerror>.ipynb", "isolation": "framework"})
    bob.claim("b", "1/2", info={"path": "x\x1b[2J\n.ipynb"})
    assert main(["list", "--all"]) == 0
    text = capsys.readouterr().out
    assert f"uid {ANN}" in text
    assert "x [2J .ipynb" in text, "what a user says is shown as plain text"
    assert "20 GiB" in text, "what is free"
    assert main(["list", "--all", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["kernel_id"], row["state"]) for row in rows] == [
        ("a", "starting"),
        ("b", "queued"),
    ]
    broker.kill()
    assert main(["list", "--all"]) == 1
    assert "The broker of this machine does not answer" in capsys.readouterr().err


def test_without_a_broker_nobody_lists_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if Path(DEFAULT_SOCKET).exists():
        pytest.skip("this machine has a broker")
    monkeypatch.delenv(BROKER, raising=False)
    assert main(["list", "--all"]) == 1
    assert "There is no broker on this machine" in capsys.readouterr().err


def test_a_user_sees_only_their_own_by_the_command(
    broker: RunningBroker,
    ann: User,
    one_gpu: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(BROKER, str(broker.socket))
    ann.claim("hers", "1/2", info={"path": "secret.ipynb"})
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    Runtime.clear_instance()
    assert "secret" not in text
    assert "40 GiB" in text


_HANDING = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
code = "import sys; from jupyter_gpu_share.cli import main; sys.exit(main(sys.argv[1:]))"
os.execv(sys.executable, [sys.executable, "-c", code, *sys.argv[2:]])
"""


async def test_the_socket_of_a_unit_is_taken(common: Path) -> None:
    """As systemd hands it on: it stays there while the broker is restarted."""
    running = RunningBroker(common)
    running.socket.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(running.socket))
        listening.listen(16)
        command = [sys.executable, "-c", _HANDING, str(listening.fileno())]
        command += ["broker", "--config", str(running._config)]
        for _ in range(2):
            with subprocess.Popen(
                command, pass_fds=[listening.fileno()], stderr=subprocess.PIPE, text=True
            ) as process:
                root = BrokerClient(running.socket)
                assert root.ask("GET", "/v1/machine")["you"]["uid"] == os.getuid()
                root.close()
                process.terminate()
                _, log = process.communicate(timeout=PATIENCE)
                assert process.returncode == 0
                assert f"The broker listens on {running.socket}\n" in log
                assert f"c.Broker.socket names {DEFAULT_SOCKET}, but systemd has made" in log
    await eventually(running.socket.exists, "it stays")


def test_the_units_and_the_program_agree() -> None:
    def unit(name: str) -> configparser.ConfigParser:
        found = configparser.ConfigParser(interpolation=None, strict=False)
        found.optionxform = str  # type: ignore[assignment, method-assign]
        found.read_string((UNITS / name).read_text("utf-8"))
        return found

    service, listening = unit("jupyter-gpu-share.service"), unit("jupyter-gpu-share.socket")
    assert listening["Socket"]["ListenStream"] == DEFAULT_SOCKET
    assert listening["Socket"]["SocketMode"] == "0666"
    folder = f"/var/lib/{service['Service']['StateDirectory']}"
    assert LocalBroker.folder.default_value == folder  # type: ignore[attr-defined]
    assert LocalBroker.socket.default_value == DEFAULT_SOCKET  # type: ignore[attr-defined]
    command = service["Service"]["ExecStart"].split()
    assert Path(command[0]).name == "jupyter-gpu-share"
    assert command[1:] == ["broker"]
    assert service["Unit"]["StartLimitIntervalSec"] == "0", "a driver may come late"


def test_no_unit_takes_the_folder_of_the_socket_away() -> None:
    """systemd removes a service's ``RuntimeDirectory`` with all that is in it when it ends."""
    folder = Path(DEFAULT_SOCKET).parent.name
    for path in UNITS.glob("*.service"):
        lines = path.read_text("utf-8").splitlines()
        if f"RuntimeDirectory={folder}" in lines:
            assert "RuntimeDirectoryPreserve=yes" in lines, path.name
