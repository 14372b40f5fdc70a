"""A Hub on the test cluster, for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hub_of_cluster import HubOfCluster, hub_of_cluster


@pytest.fixture(scope="session")
def bare_hub(cluster: Any) -> Iterator[HubOfCluster]:
    """The Hub without a broker."""
    with hub_of_cluster(cluster) as running:
        yield running
