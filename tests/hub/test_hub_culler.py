"""The Hub's own culler of idle servers, beside the broker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hubs import ANN, BOB, RunningHub, running_hub
from servers import until

#: As jupyterhub-idle-culler's README has it, with an hour made short.
_CULLER = f"""
program = {str(Path(sys.prefix) / "bin" / "jupyterhub-idle-culler")!r}
c.JupyterHub.services.append(
    {{"name": "culler", "command": [program, "--timeout=30", "--cull-every=1"]}}
)
scopes = ["list:users", "read:users:activity", "read:servers", "delete:servers"]
c.JupyterHub.load_roles.append({{"name": "culler", "scopes": scopes, "services": ["culler"]}})
c.JupyterHub.last_activity_interval = 2
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    """With the Hub's own culler of idle servers."""
    with running_hub(_CULLER) as running:
        yield running


@pytest.mark.slow
def test_a_share_that_nobody_gives_back_comes_back_with_the_culled_server(hub: RunningHub) -> None:
    """The user keeps it; the server is idle to the Hub, whose culler knows nothing of shares.

    What the server's other kernels have kept is in the user's next one.
    """
    bob = hub.server(BOB)
    released = bob.open_notebook("work.ipynb")
    assert bob.run_cell(released, "x = 42") == ""
    bob.ok(f"gpu-share/allocations/{released}/release", "POST", {})
    kept = bob.start_kernel("1")
    until_late = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
    bob.ok(f"gpu-share/allocations/{kept}", "PATCH", {"keep_until": until_late})
    assert hub.claims() == {kept: (BOB, "held")}
    ann = hub.server(ANN)
    waiting = ann.start_kernel("1/2")
    until(lambda: waiting in hub.claims(), "ann waits")
    until(lambda: not hub.ready(BOB), "bob's idle server is culled")
    # What she asks through the proxy meanwhile is activity.
    ann.wait_for(waiting, "active")
    assert hub.claims() == {waiting: (ANN, "held")}
    assert hub.ready(ANN)
    until(lambda: hub.stopped(BOB), "bob's server has ended")
    bob = hub.server(BOB)
    until(lambda: bob.notebooks() == {"work.ipynb": released}, "the next server takes it over")
    assert "42" in bob.run_cell(released, "print(x)")
