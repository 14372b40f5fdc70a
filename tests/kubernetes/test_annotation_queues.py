"""Style ``annotation`` keeps to the limits of KAI's queues, with a FAKE of KAI Scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from annotated import Make, Objects, call, pod_of, the_engine
from cluster.fixtures import CLUSTER_MARKS
from fake_kai import FakeKai, amount, fake_kai
from traitlets.config import Config
from waiting import eventually

from jupyter_gpu_share.engines.base import Waiting
from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.size import Size

pytestmark = CLUSTER_MARKS


@pytest.fixture
def kai(cluster: Any) -> Iterator[FakeKai]:
    """One GPU of the real node. The queue ``small`` may hold half of it, and counts that."""
    with fake_kai(cluster, gpus=1) as fake, fake.queues(small=0.5):
        yield fake


@pytest.fixture
def config(config: Config, kai: FakeKai) -> Config:
    """A server whose kernels are accounted in that queue."""
    config.KubernetesEngine.backend = "kai"
    config.KubernetesEngine.style = "annotation"
    config.KubernetesEngine.backend_options = {"settle": "0.5", "queue": "small"}
    config.GpuShareProvisioner.queue_patience = 0.5
    return config


async def test_a_share_comes_back_only_when_its_queue_has_room(
    notebook: Make, objects: Objects, kai: FakeKai
) -> None:
    one, other = notebook("1/2"), notebook("1/4")
    await one.placed()
    engine = await the_engine()
    await call(engine.give_back(one.kernel_id))
    await other.placed()
    await eventually(lambda: 0.2 < kai.held("small") < 0.3, "the queue has counted it")
    news: list[Any] = []
    back = asyncio.ensure_future(call(engine.take_back(one.kernel_id, news.append)))
    await eventually(lambda: news, "it is told that there is no room")
    assert isinstance(news[0], Waiting)
    assert news[0].reason == (
        "The limit of the queue small is reached: it is 0.5 GPUs; others of the queue hold the "
        "rest."
    )
    assert amount(pod_of(objects, one)) <= 2
    await other.close()
    await back
    assert await one.run("print('here')") == "here"
    await eventually(lambda: 0.49 < kai.held("small") <= 0.5, "the queue holds as much as it may")


async def test_a_kernel_does_not_grow_beyond_its_queue(
    notebook: Make, objects: Objects, kai: FakeKai
) -> None:
    one = notebook("1/4")
    await one.placed()
    await eventually(lambda: kai.held("small") > 0.2, "the queue has counted it")
    engine = await the_engine()
    annotation = engine._kernels[one.kernel_id].objects.holder
    before = amount(pod_of(objects, one))
    quarter, more = Size.parse("1/4"), Size.parse("3/4")
    assert await call(annotation.planned(quarter, more)) is None
    with pytest.raises(EngineError, match="The limit of the queue small is reached"):
        await call(annotation.change(quarter, more, {}))
    assert amount(pod_of(objects, one)) == before
    await call(annotation.change(quarter, Size.parse("1/2"), {}))
    assert amount(pod_of(objects, one)) > before
