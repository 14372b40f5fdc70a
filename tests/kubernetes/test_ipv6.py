"""Kernels in pods that have an address of IPv6 alone, or one of each kind."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cluster._host import has_ipv6
from cluster.fixtures import CLUSTER_MARKS
from lossy import LossyProxy
from notebooks import LONG, Notebook
from traitlets.config import Config
from waiting import eventually

from jupyter_gpu_share.runtime import Runtime

pytestmark = [
    *CLUSTER_MARKS,
    pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6"),
]

Make = Callable[..., Notebook]
Objects = Callable[[str], list[dict[str, Any]]]

KINDS = {"ipv6": ["IPv6"], "dual": ["IPv4", "IPv6"]}


def kinds_of(pod: dict[str, Any]) -> list[str]:
    ips = [each["ip"] for each in pod["status"]["podIPs"]]
    assert ips[0] == pod["status"]["podIP"]
    return ["IPv6" if ":" in ip else "IPv4" for ip in ips]


@pytest.fixture
async def api_over_ipv6(cluster: Any, config: Config, tmp_path: Path) -> AsyncIterator[None]:
    """The server reaches the API server by an address of IPv6."""
    proxy = await LossyProxy(cluster.api_url, cluster.authority, "::1").start()
    path = tmp_path / "ipv6.kubeconfig"
    own = cluster.kubeconfig.read_text()
    path.write_text(re.sub(r"https://127\.0\.0\.1:\d+", f"http://[::1]:{proxy.port}", own))
    config.KubernetesEngine.kubeconfig = str(path)
    yield
    await asyncio.to_thread(Runtime.clear_instance)
    await proxy.close()


@pytest.mark.parametrize("style", ["pod", "lease"])
@pytest.mark.parametrize("network", KINDS)
async def test_a_kernel_starts_answers_leaves_its_share_and_takes_it_back(
    network: str,
    style: str,
    cluster: Any,
    namespace: str,
    api_over_ipv6: None,
    notebook: Make,
    objects: Objects,
) -> None:
    patch = {"spec": {"runtimeClassName": network}}
    one = await notebook("1/4", style=style, pod_patch=patch).start()
    assert await one.run("x = [1]; y = x; print('set')") == "set"
    kernels = [pod for pod in objects("pods") if pod["spec"].get("runtimeClassName")]
    assert [kinds_of(pod) for pod in kernels] == [KINDS[network]]
    await Runtime.instance().release(one.kernel_id, lose_variables=False)
    await one.state("released")
    assert (await one.run("print(x, y is x)")).endswith("[1] True")
    await one.state("active", "idle")
    await one.manager.restart_kernel(now=True)
    assert await one.run("print('again')") == "again"
    await one.close()
    for what in ("pods", "secrets", "claims"):
        await eventually(lambda what=what: not objects(what), f"no {what} left", LONG)
