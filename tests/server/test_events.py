"""Events and metrics of a real server."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from importlib.resources import files
from typing import Any
from urllib.request import urlopen

import yaml
from jsonschema import Draft7Validator
from servers import TOKEN, Server
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect
from waiting import PATIENCE

EVENT = "https://events.jupyter.org/jupyter_gpu_share/allocation/v1"
SCHEMA: dict[str, Any] = yaml.safe_load(
    files("jupyter_gpu_share.server").joinpath("events/allocation-v1.yaml").read_text()
)


async def states(server: Server, kernel_id: str, until: str, act: Any) -> list[dict[str, Any]]:
    """What subscribers hear of a kernel while ``act`` is done, up to a state."""
    url = server.url.replace("http", "ws", 1) + "api/events/subscribe"
    request = HTTPRequest(url, headers={"Authorization": f"token {TOKEN}"})
    socket = await asyncio.wait_for(websocket_connect(request), PATIENCE)
    doing = asyncio.create_task(asyncio.to_thread(act))
    heard: list[dict[str, Any]] = []
    while not heard or heard[-1]["state"] != until:
        text = await asyncio.wait_for(socket.read_message(), PATIENCE)
        assert text is not None
        event = json.loads(text)
        if event["schema_id"] == EVENT:
            data = {k: v for k, v in event.items() if k in SCHEMA["properties"]}
            Draft7Validator(SCHEMA).validate(data)
            if data["kernel_id"] == kernel_id:
                heard.append(data)
    socket.close()
    await doing
    return heard


async def test_a_kernels_life_is_told(clean: Server) -> None:
    kernel_id = "22222222-2222-4222-8222-222222222222"
    start = await states(
        clean, kernel_id, "active", lambda: clean.start_kernel("1/2", kernel_id=kernel_id)
    )
    assert [row["state"] for row in start][:2] == ["queued", "starting"]
    assert start[-1]["share"]["memory_bytes"] == 40 * 2**30
    assert start[-1] == clean.ok(f"gpu-share/allocations/{kernel_id}") | {
        "idle_since": start[-1]["idle_since"],
        "used_bytes": start[-1]["used_bytes"],
        "utilization": start[-1]["utilization"],
    }
    end = await states(
        clean, kernel_id, "ended", lambda: clean.fetch(f"api/kernels/{kernel_id}", "DELETE")
    )
    assert end[-1]["share"] is None


async def test_moving_up_in_the_queue_is_told(clean: Server) -> None:
    first, second = clean.start_kernel("1"), clean.start_kernel("1/2")
    third = clean.start_kernel("1")
    assert clean.ok(f"gpu-share/allocations/{third}")["queue"] == {"position": 2, "of": 2}
    heard = await states(clean, third, "starting", lambda: _delete_both(clean, first, second))
    places = [row["queue"] for row in heard if row["queue"]]
    assert places[-1] == {"position": 1, "of": 1}


def _delete_both(server: Server, *kernels: str) -> None:
    for kernel in kernels:
        server.fetch(f"api/kernels/{kernel}", "DELETE")


def test_metrics_name_no_user(clean: Server) -> None:
    kernel_id = clean.start_kernel("1/2")
    with urlopen(f"{clean.url}metrics?token={TOKEN}", timeout=PATIENCE) as answer:
        lines = [
            line for line in answer.read().decode().splitlines() if "jupyter_gpu_share_" in line
        ]
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(found['jupyter_gpu_share_allocations{state="active"}']) == 1
    assert float(found["jupyter_gpu_share_granted_bytes"]) == 40 * 2**30
    assert float(found["jupyter_gpu_share_starts_total"]) >= 1
    assert float(found["jupyter_gpu_share_queued_seconds_count"]) >= 1
    labels = {name for key in found for name in re.findall(r"(\w+)=", key)}
    assert labels <= {"state", "le"}
    assert kernel_id not in "".join(lines)


def test_no_engine_is_imported_before_a_kernel_starts() -> None:
    code = (
        "import sys\n"
        "import jupyter_gpu_share\n"
        "cheap = {m for m in sys.modules if m.startswith('jupyter_gpu_share')}\n"
        "assert cheap == {'jupyter_gpu_share', 'jupyter_gpu_share._version'}, cheap\n"
        "from jupyter_client.kernelspec import KernelSpecManager\n"
        "KernelSpecManager().get_all_specs()\n"
        "jupyter_gpu_share._jupyter_server_extension_points()\n"
        "import jupyter_gpu_share.provisioner, jupyter_gpu_share.runtime\n"
        "bad = [m for m in sys.modules if m.startswith(('jupyter_gpu_share.engines.local',\n"
        "       'jupyter_gpu_share.relay', 'pynvml', 'kubernetes'))]\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
