"""Pods without a cluster, for the tests of the agent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from agents import Pod


@pytest.fixture
async def pod_of(tmp_path: Path) -> AsyncIterator[Callable[..., Pod]]:
    """Makes pods whose agents have not started yet, and ends them."""
    made: list[Pod] = []

    def make(**settings: bool) -> Pod:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Pod(folder, **settings))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
def pod(pod_of: Callable[..., Pod]) -> Pod:
    """A pod whose agent has not started yet."""
    return pod_of()


@pytest.fixture
def first(pod_of: Callable[..., Pod]) -> Pod:
    """A pod whose agent will be PID 1."""
    return pod_of(first=True)
