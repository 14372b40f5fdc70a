"""Events and metrics of a real server."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml
from jsonschema import Draft7Validator
from servers import TOKEN, Server, connected
from waiting import PATIENCE, eventually

EVENT = "https://events.jupyter.org/jupyter_gpu_share/allocation/v1"
SCHEMA: dict[str, Any] = yaml.safe_load(
    files("jupyter_gpu_share.server").joinpath("events/allocation-v1.yaml").read_text()
)


async def states(server: Server, kernel_id: str, until: str, act: Any) -> list[dict[str, Any]]:
    """What subscribers hear of a kernel while ``act`` is done, up to a state."""
    heard: list[dict[str, Any]] = []
    async with connected(server.url, "api/events/subscribe") as socket:
        doing = asyncio.create_task(asyncio.to_thread(act))
        while not heard or heard[-1]["state"] != until:
            text = await asyncio.wait_for(socket.read_message(), PATIENCE)
            assert text is not None
            event = json.loads(text)
            if event["schema_id"] == EVENT:
                data = {k: v for k, v in event.items() if k in SCHEMA["properties"]}
                Draft7Validator(SCHEMA).validate(data)
                if data["kernel_id"] == kernel_id:
                    heard.append(data)
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


def metrics(server: Server) -> dict[str, float]:
    """Those of ours, by name and labels."""
    with urlopen(f"{server.url}metrics?token={TOKEN}", timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    rows = [line.rsplit(" ", 1) for line in lines if line.startswith("jupyter_gpu_share_")]
    return {name: float(value) for name, value in rows}


async def test_metrics_tell_of_the_queue_and_the_gpus(clean: Server) -> None:
    first, second = clean.start_kernel("1"), clean.start_kernel("1/2")
    assert metrics(clean)["jupyter_gpu_share_queue_length"] == 1
    total = 'jupyter_gpu_share_gpu_memory_bytes{model="A100-80GB (simulated)"}'
    await eventually(lambda: metrics(clean).get(total) == 80 * 2**30, "the GPU's memory")
    _delete_both(clean, first, second)


def test_metrics_name_no_user(clean: Server) -> None:
    kernel_id = clean.start_kernel("1/2")
    found = metrics(clean)
    assert found['jupyter_gpu_share_allocations{state="active"}'] == 1
    assert found["jupyter_gpu_share_granted_bytes"] == 40 * 2**30
    assert found["jupyter_gpu_share_starts_total"] >= 1
    assert found["jupyter_gpu_share_queued_seconds_count"] >= 1
    assert found["jupyter_gpu_share_queue_length"] == 0
    labels = {name for key in found for name in re.findall(r"(\w+)=", key)}
    assert labels <= {"state", "model", "le"}
    assert kernel_id not in "".join(found)


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


def test_a_server_that_has_started_has_no_engine(jupyter_dirs: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from jupyter_server.serverapp import ServerApp\n"
        "app = ServerApp()\n"
        "app.initialize(['--ServerApp.jpserver_extensions={\"jupyter_gpu_share\": True}'],\n"
        "               new_httpserver=False)\n"
        "asyncio.run(app.extension_manager.start_all_extensions())\n"
        "assert 'jupyter_gpu_share.runtime' in sys.modules, 'the extension did not start'\n"
        "bad = [m for m in sys.modules if m.startswith(('jupyter_gpu_share.engines.local',\n"
        "       'jupyter_gpu_share.relay', 'pynvml', 'kubernetes'))]\n"
        "print('imported:', bad)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert "imported: []" in done.stdout, (done.stdout, done.stderr)
