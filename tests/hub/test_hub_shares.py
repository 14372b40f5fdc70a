"""Users' servers of a real JupyterHub, as users of the machine, on the broker's shares."""

from __future__ import annotations

import pytest
from hubs import ANN, CAT, UIDS, RunningHub, fetch
from servers import until


@pytest.mark.slow
def test_a_kernel_holds_a_share_as_its_user(hub: RunningHub) -> None:
    """Named servers are the same user, and a stopped server holds nothing."""
    servers = [hub.server(ANN), hub.server(ANN, "two")]
    kernels = [server.start_kernel("1/4") for server in servers]
    told = servers[0].run_cell(kernels[0], "import os; print(os.getuid())")
    assert told == str(UIDS[ANN])
    assert hub.claims() == dict.fromkeys(kernels, (ANN, "held"))
    # What runs in a notebook has its server's token, which opens no page.
    code = "import os; print(os.environ['JUPYTERHUB_API_TOKEN'])"
    status, text = fetch(hub.page, token=servers[0].run_cell(kernels[0], code))
    assert (status, text) == (403, "The Hub does not allow you this page; ask its administrator.\n")
    doctor = "import subprocess; print(subprocess.getoutput('jupyter-gpu-share doctor'))"
    found = servers[0].run_cell(kernels[0], doctor)
    assert f"{ANN} holds 2, and 0 wait" in found
    assert "Kernels of every kernelspec start on a share" in found
    assert "No kernelspec has a size" not in found
    hub.ok("DELETE", f"/users/{ANN}/servers/two")
    until(lambda: hub.claims() == {kernels[0]: (ANN, "held")}, "what the other held is free")
    hub.ok("DELETE", f"/users/{ANN}/server")
    until(lambda: not hub.claims(), "all is free")


@pytest.mark.slow
def test_the_hub_is_away(hub: RunningHub) -> None:
    """What runs goes on, what is new has its share, and the Hub that is back finds all of it."""
    cat = hub.server(CAT)
    kernel = cat.start_kernel("1/4")
    assert cat.run_cell(kernel, "x = 42; print(x)") == "42"
    assert fetch(hub.page, token=cat.token)[0] == 200
    hub.kill()
    assert hub.ask("GET", "")[0] in (0, 503)
    assert cat.run_cell(kernel, "print(x + 1)") == "43"
    other = cat.start_kernel("1/4")
    assert cat.run_cell(other, "print('new')") == "new"
    cat.ok(f"gpu-share/allocations/{kernel}/release", "POST", {})
    cat.wait_for(kernel, "released")
    assert cat.run_cell(kernel, "print(x + 2)") == "44"
    hub.start_again()
    assert hub.ready(CAT)
    assert cat.run_cell(kernel, "print(x + 3)") == "45"
    assert {k: hub.claims()[k] for k in (kernel, other)} == dict.fromkeys(
        (kernel, other), (CAT, "held")
    )
    status, text = fetch(hub.page, token=cat.token)
    assert status == 200 and "GPU shares of all users" in text
    hub.ok("DELETE", f"/users/{CAT}/server")
    until(lambda: CAT not in {user for user, _ in hub.claims().values()}, "her shares come back")
