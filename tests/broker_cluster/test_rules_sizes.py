"""Sizes that users of a cluster may not have at all, whatever their own servers say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from brokers_of_cluster import cluster_broker
from cluster.fixtures import CLUSTER_MARKS
from moments import Clock
from ruled import GIB, hold, key, ruled, wish
from traitlets.config import Config

from jupyter_gpu_share.broker.cluster.sizes import Sizes
from jupyter_gpu_share.engines.base import Capacity
from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.size import Size, SizePolicy


def sizes(**settings: Any) -> Sizes:
    return Sizes(SizePolicy(config=Config({"SizePolicy": settings})))


@pytest.mark.parametrize(
    ("settings", "refused", "allowed"),
    [
        ({}, ["9x1"], ["1", "8x1", "0", "mig-1g.10gb"]),
        ({"maximum": "1/2"}, ["3/4", "2x1", "60GiB"], ["1/2", "40GiB", "0"]),
        ({"minimum": "1/4"}, ["1/8", "10GiB"], ["1/4", "0"]),
        ({"max_devices": 1, "allow_profiles": False}, ["2x1/2", "mig-1g.10gb"], ["1"]),
        ({"allow_zero": False}, ["0"], ["1/4"]),
        ({"only_offered": True, "offered": [{"size": "1/4"}]}, ["1/2", "0"], ["1/4", "0.25"]),
    ],
)
async def test_the_administrators_bounds_hold_for_every_start_and_change(
    tmp_path: Path, settings: dict[str, Any], refused: list[str], allowed: list[str]
) -> None:
    bounds = sizes(**settings)
    async with ruled(tmp_path, Clock(), sizes=bounds, count=8) as (rules, _):
        for size in refused:
            said = rules.reserve(wish("ann", "a", size))
            assert said and "\n" not in said, size
            assert rules.why_not(wish("ann", "a", size)) == said
        assert not rules.holdings.known
        for size in allowed:
            assert rules.reserve(wish("ann", "a", size)) is None, size
            rules.drop(key("ann", "a"))
        hold(rules, wish("ann", "a", allowed[0]))
        assert rules.reserve(wish("ann", "a", refused[0])), "nor is it changed to that"


async def test_a_bound_in_parts_holds_on_gpus_that_may_come(tmp_path: Path) -> None:
    small = Capacity("", "T4", "", 16 * GIB, 16 * GIB)
    async with ruled(tmp_path, Clock(), sizes=sizes(maximum="1/2"), coming=[small]) as (rules, _):
        assert rules.reserve(wish("ann", "a", "10GiB"))
        assert rules.reserve(wish("ann", "a", "8GiB")) is None


def test_where_no_gpu_is_known_what_cannot_be_compared_is_refused() -> None:
    bounds = sizes(maximum="1/2")
    assert "is not known" in (bounds.why_not(Size.parse("10GiB"), ()) or "")
    assert bounds.why_not(Size.parse("1/4"), ()) is None


def test_a_total_of_one_server_is_refused_as_it_would_hold_nobody() -> None:
    with pytest.raises(EngineError, match=r"c\.Broker\.limits"):
        Sizes(SimpleNamespace(max_total="1"))  # type: ignore[arg-type]


class TestOnACluster:
    pytestmark = CLUSTER_MARKS

    async def test_a_server_that_asks_for_more_is_refused(
        self, cluster: Any, namespace: str, tmp_path: Path
    ) -> None:
        more = 'c.SizePolicy.maximum = "1/2"'
        async with cluster_broker(
            tmp_path, cluster.kubeconfig, namespace, style="pod", more=more
        ) as broker:
            ann = broker.user("ann")
            status, answer = await ann.ask("PUT", "/v1/shares/a", ann.plan("1"))
            assert status == 409
            assert "1/2" in answer["detail"]
            fits = {"kernel_id": "a", "sizes": ["1", "1/4"]}
            assert (await ann.ok("POST", "/v1/fits", fits))[0]
            path = f"/api/v1/namespaces/{namespace}/pods"
            assert cluster.api.get(path)["items"] == []
