"""What an administrator forgets first, and what they are told."""

from __future__ import annotations

import signal

import pytest
from broker_attacks import ASK
from cluster.fixtures import CLUSTER_MARKS
from hub_of_cluster import ACCESS, HubOfCluster
from servers import until

pytestmark = CLUSTER_MARKS


@pytest.mark.parametrize("role", ["user", "server"])
def test_the_scope_is_missing_in_one_role(hub: HubOfCluster, role: str) -> None:
    """One line in ``doctor`` and in the notebook names what is to be added, and where."""
    hub.stop_hub()
    hub.start_hub(role)
    erin = hub.server("erin")
    terminal = hub.terminal(erin)
    status, told = terminal.tell(f"{ASK}\nprint(json.dumps(ask('GET', '/v1/machine')))")
    assert status == 403 and names_both(told["detail"]), told
    _, told = terminal.command("doctor")
    lines = [line for line in told.splitlines() if line.startswith("✗")]
    assert len(lines) == 1 and names_both(lines[0]), told
    status, told = erin.fetch("api/kernels", "POST", {"name": "python3"})
    assert status >= 400 and names_both(told["message"]), (status, told)
    assert "\n" not in told["message"]
    assert not hub.left()
    # With both it works, for a server that is started anew.
    hub.stop_server("erin")
    hub.stop_hub()
    hub.start_hub()
    erin = hub.server("erin")
    assert erin.run_cell(erin.start_kernel("1/4"), "print(6 * 7)") == "42"


def names_both(line: str) -> bool:
    """Whether a line says which scope belongs in which roles."""
    return ACCESS in line and "user" in line and "server" in line and "role" in line


@pytest.mark.parametrize("name", ["JUPYTERHUB_SERVICE_NAME", "JUPYTERHUB_API_TOKEN"])
def test_a_service_that_knows_itself_not_does_not_start(bare_hub: HubOfCluster, name: str) -> None:
    """Without its name it would take every token of the Hub."""
    hub = bare_hub
    program = hub.broker_program
    if program.runs:
        program.end(signal.SIGTERM)
    before = len(program.told())
    hub.start_broker(wait=False, **{name: ""})
    until(lambda: program.status is not None, "it ends")
    assert program.status
    lines = program.told()[before:].strip().splitlines()
    assert len(lines) == 1 and name in lines[0], lines
