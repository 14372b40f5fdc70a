"""A Hub on the test cluster with a broker, for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hub_of_cluster import HubOfCluster, hub_of_cluster


@pytest.fixture(scope="session")
def bare_hub(cluster: Any) -> Iterator[HubOfCluster]:
    """The Hub; whether its broker runs is left to each test."""
    with hub_of_cluster(cluster) as running:
        yield running


@pytest.fixture
def hub(bare_hub: HubOfCluster, request: pytest.FixtureRequest) -> Iterator[HubOfCluster]:
    """The Hub with a broker that knows no grace but the usual one; no server is left to others."""
    bare_hub.with_broker()
    failed = request.session.testsfailed
    yield bare_hub
    if request.session.testsfailed > failed:
        print(bare_hub.logs())
    bare_hub.with_broker()
    bare_hub.stop_servers()
    bare_hub.empty()
