"""The command in a server of the Hub, which asks the broker of the cluster."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from unittest.mock import Mock

import aiohttp
import pytest
from fake_cluster_broker import TOKEN, FakeClusterBroker, Kernel

from jupyter_gpu_share.broker.client import BrokerAway, BrokerRefused
from jupyter_gpu_share.engines.kubernetes._brokered_doctor import about

LONG = 60.0


@pytest.fixture
def some(broker: FakeClusterBroker) -> None:
    """A kernel that runs, and one that waits."""
    broker.kernels["aaaa"] = Kernel(
        "aaaa", "a" * 32, "1/2", "b" * 32, path="work.ipynb", state="ready"
    )
    broker.kernels["cccc"] = Kernel("cccc", "c" * 32, "1", "b" * 32, path="wait.ipynb")


async def said(
    broker: FakeClusterBroker, folder: Path, *arguments: str, **env: str
) -> tuple[int, str, str]:
    """Run the command; its exit code, and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; from jupyter_gpu_share.cli import main; sys.exit(main())",
        *arguments,
        env={
            **os.environ,
            "JUPYTER_GPU_SHARE_BROKER": broker.url,
            "JUPYTERHUB_API_TOKEN": TOKEN,
            "HOME": str(folder),
            **env,
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(), LONG)
    assert process.returncode is not None
    assert TOKEN not in (out + error).decode()
    return process.returncode, out.decode(), error.decode()


async def test_list_shows_the_users_kernels_and_the_clusters_gpus(
    broker: FakeClusterBroker, some: None, jupyter_dirs: Path
) -> None:
    code, out, error = await said(broker, jupyter_dirs, "list")
    assert code == 0, error
    assert "work.ipynb" in out
    assert "wait.ipynb" in out
    assert "A100" in out
    assert not any(what.startswith(("PUT", "POST", "DELETE")) for what in broker.asked)


async def test_list_all_is_for_administrators(
    broker: FakeClusterBroker, some: None, jupyter_dirs: Path
) -> None:
    code, _, error = await said(broker, jupyter_dirs, "list", "--all")
    assert code != 0
    assert "custom:gpu-share:admin" in error
    broker.administrator = True
    code, out, error = await said(broker, jupyter_dirs, "list", "--all", "--json")
    assert code == 0, error
    rows = {row["kernel_id"]: row for row in json.loads(out)}
    assert rows["aaaa"]["user"] == "bob/lab"
    assert (rows["aaaa"]["state"], rows["cccc"]["state"]) == ("active", "queued")
    assert rows["aaaa"]["share"]["devices"], "it is shown of which GPU it is"
    _, out, _ = await said(broker, jupyter_dirs, "list", "--all")
    assert "GiB of A100" in next(line for line in out.splitlines() if "bob/lab" in line)


async def test_usage_is_the_brokers_count(broker: FakeClusterBroker, jupyter_dirs: Path) -> None:
    code, out, error = await said(broker, jupyter_dirs, "usage")
    assert code == 0, error
    assert "2.00" in out
    code, _, error = await said(broker, jupyter_dirs, "usage", "--all")
    assert code != 0
    broker.administrator = True
    code, out, error = await said(broker, jupyter_dirs, "usage", "--all")
    assert code == 0, error
    assert "group course" in out


async def test_doctor_names_both_stanzas(broker: FakeClusterBroker, jupyter_dirs: Path) -> None:
    broker.problem = (403, "This token may not use the service gpu-share.")
    code, out, _ = await said(broker, jupyter_dirs, "doctor")
    assert code == 1
    assert "hub.loadRoles.user and hub.loadRoles.server" in out


async def test_without_a_token_it_is_said_whose_it_would_be(
    broker: FakeClusterBroker, jupyter_dirs: Path
) -> None:
    code, out, error = await said(broker, jupyter_dirs, "usage", JUPYTERHUB_API_TOKEN="")
    assert code != 0
    assert "JUPYTERHUB_API_TOKEN is not set" in out + error


async def test_the_page_is_at_the_hub(broker: FakeClusterBroker, jupyter_dirs: Path) -> None:
    code, _, error = await said(broker, jupyter_dirs, "page")
    assert code != 0
    assert "/services/gpu-share/" in error


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9/services/gpu-share", "Nothing listens there"),
        ("https://{port}/services/gpu-share", "No secure connection can be made"),
        ("http://{port}/services/other", "is no broker (status 404)"),
    ],
)
async def test_doctor_tells_why_the_broker_is_not_reached(
    broker: FakeClusterBroker, jupyter_dirs: Path, url: str, words: str
) -> None:
    port = broker.url.partition("//")[2].partition("/")[0]
    code, out, _ = await said(
        broker, jupyter_dirs, "doctor", JUPYTER_GPU_SHARE_BROKER=url.format(port=port)
    )
    assert code == 1
    assert words in out.splitlines()[0] + out.splitlines()[1]


def test_what_says_nothing_may_be_a_policy() -> None:
    away = BrokerAway("The broker does not answer.")
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    away.__cause__ = aiohttp.ClientConnectorDNSError(Mock(), unknown)
    assert "Nobody knows that name" in (about(away).fix or "")
    away.__cause__ = aiohttp.ConnectionTimeoutError()
    assert "singleuser.networkPolicy.egress" in (about(away).fix or "")
    assert "services/gpu-share" in (about(BrokerRefused("Nothing here.", 404)).fix or "")
