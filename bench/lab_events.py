"""How soon a change of a kernel's state is seen in JupyterLab."""

from __future__ import annotations

import random
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import quantiles
from typing import Any
from uuid import uuid4

from .lab import allocation_of, running_lab
from .rows import Row

KERNELS, CHANGES = 50, 500
#: Events in a second, each of which changes one kernel's state.
RATE = 50
_GOAL = 100.0
_EVENT = "https://events.jupyter.org/jupyter_gpu_share/allocation/v1"
_LIST = re.compile(r"/gpu-share/allocations\?")
_STATES = ("active", "idle", "queued", "starting", "released")

#: Notes for each word that is shown when the picture with it was made, in seconds since 1970.
_WATCH = """
() => {
  window.shown = {};
  const panel = document.querySelector('.jp-GpuShare-sidebar');
  const look = () => requestAnimationFrame(() => setTimeout(() => {
    for (const item of panel.querySelectorAll('li')) {
      window.shown[item.title] ??= Date.now() / 1000;
    }
  }));
  new MutationObserver(look).observe(panel, {subtree: true, childList: true, attributes: true});
}
"""


def rows() -> list[Row]:
    """From an event to the picture with it, while 50 kernels change state.

    No kernel runs: the server's event bus is told of changes by its own REST route, and carries
    them to the page as it carries all events.
    """
    with tempfile.TemporaryDirectory(prefix="gpu-share-bench-") as folder:
        with running_lab(Path(folder)) as (server, page):
            page.evaluate("() => { window.jupyterapp.commands.execute('gpu-share:show') }")
            page.locator(".jp-GpuShare-sidebar section").first.wait_for()
            page.evaluate(_WATCH)
            chance = random.Random(6)  # noqa: S311 - no secret
            kernels = [str(uuid4()) for _ in range(KERNELS)]
            sent: dict[str, float] = {}
            rows: dict[str, dict[str, Any]] = {}
            # A FAKE of the list that the server has of its kernels: these are none of its own.
            page.route(_LIST, lambda route: route.fulfill(json=list(rows.values())))

            def tell(number: int) -> None:
                word = f"change {number}"
                state = chance.choice(_STATES)
                queue = {"position": 1, "of": 1} if state == "queued" else None
                kernel = kernels[number % KERNELS]
                row = allocation_of(kernel, state=state, reason=word, queue=queue)
                rows[row["kernel_id"]] = row
                sent[word] = time.time()
                server.ok("api/events", "POST", {"schema_id": _EVENT, "version": "1", "data": row})

            with ThreadPoolExecutor(4) as pool:
                begun = time.monotonic()
                told = []
                for number in range(CHANGES):
                    page.wait_for_timeout(max(0.0, begun + number / RATE - time.monotonic()) * 1e3)
                    told.append(pool.submit(tell, number))
                for each in told:
                    each.result()
            last = f"change {CHANGES - 1}"
            page.wait_for_function("last => last in window.shown", arg=last)
            shown: dict[str, float] = page.evaluate("() => window.shown")
    # One that the next change of its kernel has overtaken was never shown.
    delays = [(shown[word] - at) * 1000 for word, at in sent.items() if word in shown]
    assert len(delays) > CHANGES * 0.9, f"only {len(delays)} of {CHANGES} changes were shown"
    found = quantiles(delays, n=20)[-1]
    what = f"from event to pixel, {KERNELS} kernels, {RATE} changes a second"
    return [Row(what, "ms", found, None, _GOAL, "95th percentile at most 100 ms")]
