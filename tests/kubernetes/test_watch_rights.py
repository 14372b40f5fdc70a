"""A server whose role is of an earlier version, without the right to watch (FAKE API)."""

from __future__ import annotations

import pytest
from counted import CountedApi, looked_at

from jupyter_gpu_share.engines.kubernetes import _doctor
from jupyter_gpu_share.engines.kubernetes.api import Resource


class Roles(CountedApi):
    """Allows all but what is refused, as ``VERB PLURAL`` of the whole cluster."""

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self._refused = refused

    async def allowed(
        self, verb: str, resource: Resource, namespace: str | None, subresource: str = ""
    ) -> bool:
        return namespace is not None or f"{verb} {resource.plural}" not in self._refused


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        ((), ""),
        (("watch pods", "watch nodes"), "nodes, pods"),
        (("watch pods",), "pods"),
        (("watch nodes",), "nodes"),
        (("list pods", "watch pods"), ""),
    ],
)
async def test_the_doctor_names_what_may_be_listed_and_not_watched(
    refused: tuple[str, ...], named: str
) -> None:
    cluster = looked_at(Roles(*refused))
    cluster.namespace = "team"
    found = [each for each in await _doctor._about_rights(cluster) if "not watch" in each.what]
    assert bool(found) == bool(named)
    for finding in found:
        names = finding.what.removeprefix("This server may list ").partition(" of the cluster")[0]
        assert sorted(names.split(", ")) == named.split(", ")
        assert finding.level == "note"
        overlay = "cluster-read-pods" if "pods" in named else "cluster-read"
        assert finding.fix == f"kubectl apply -k etc/kubernetes/overlays/{overlay}"
    await cluster.close()
