"""FAKE answers of a server, for machines with kernels that a test does not run."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any

from labs import allocation_of
from playwright.sync_api import Page, Route
from servers import Server

GIB = 2**30
EVENT = "https://events.jupyter.org/jupyter_gpu_share/allocation/v1"
OURS = re.compile(r"/gpu-share/(allocations|status|history/[^/]+)(\?|$)")


def moment(minutes: float) -> str:
    return (datetime.now(timezone.utc) + timedelta(minutes=minutes)).isoformat()


def share(gib: int, fraction: str, *uuids: str) -> dict[str, Any]:
    devices = [{"uuid": uuid, "model": "NVIDIA L4", "node": "node-3"} for uuid in uuids]
    return {
        "devices": devices,
        "memory_bytes": gib * GIB,
        "fraction": fraction,
        "isolation": "framework",
        "simulated": False,
    }


def gpu(uuid: str, free: int) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "model": "NVIDIA L4",
        "node": "node-3",
        "memory_bytes": 24 * GIB,
        "free_bytes": free * GIB,
        "profile": None,
        "simulated": False,
        "kernels": 2,
    }


def row(number: int, **changes: Any) -> dict[str, Any]:
    return allocation_of(f"00000000-0000-4000-8000-{number:012d}", **changes)


def pretend(
    page: Page,
    found: list[dict[str, Any]],
    past: dict[str, Any] | None = None,
    **status: Any,
) -> None:
    """Have the page see a FAKE of a machine with kernels that this test does not run."""
    told = {
        "version": "1",
        "engine": "local",
        "healthy": True,
        "problem": None,
        "simulated": False,
        "gpus": [],
        "kernels": {},
        "queue": 0,
        "next_release": None,
        "turns": {},
        **status,
    }

    nothing = {
        "now": moment(0),
        "held_since": None,
        "gpu_hours": 0,
        "returned_gpu_hours": 0,
        "spans": [],
        "samples": {"begin": None, "interval": 15, "used_bytes": [], "utilization": []},
    }
    answers: dict[str, Any] = {"allocations": found, "status": told, "history": past or nothing}

    def fulfil(route: Route) -> None:
        body = next(answer for name, answer in answers.items() if f"/{name}" in route.request.url)
        route.fulfill(content_type="application/json", body=json.dumps(body))

    page.route(OURS, fulfil)


def tell(lab: Server, data: dict[str, Any]) -> None:
    """An event of the server about a kernel that does not run."""
    lab.ok("api/events", "POST", {"schema_id": EVENT, "version": "1", "data": data})


def thirty() -> list[dict[str, Any]]:
    """Kernels that hold, wait, or have given back their share."""
    found = []
    for number in range(30):
        name = f"runs/resnet50-ablation-{(7 * number) % 30:02d}.ipynb"
        state = ("active", "queued", "released")[number % 3]
        held = share(6, "1/4", "G0") if state == "active" else None
        queue = {"position": 1, "of": 1} if state == "queued" else None
        used = number * GIB // 8 if held else None
        found.append(row(number, path=name, state=state, share=held, queue=queue, used_bytes=used))
    return found
