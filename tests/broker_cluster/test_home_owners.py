"""What is written on a kernel's pod, and read from it by the next broker."""

from __future__ import annotations

import copy
from datetime import datetime, timezone
from typing import Any

import pytest

from jupyter_gpu_share.broker.cluster.names import key_of
from jupyter_gpu_share.broker.cluster.owners import (
    asked_of,
    found_on,
    groups_of,
    is_brokered,
    key_of_owner,
    newest,
    owner_of,
)
from jupyter_gpu_share.broker.cluster.presence import Process
from jupyter_gpu_share.broker.cluster.ruling import Key
from jupyter_gpu_share.engines.kubernetes._names import PREFIX
from jupyter_gpu_share.engines.kubernetes._pods import Labels

ANN = Process("ann", "lab", "a" * 32)
GROUPS = frozenset({"course", 'odd "name", é'})


def pod(process: Process = ANN, **notes: str) -> dict[str, Any]:
    owner = owner_of(process, "b" * 32, GROUPS)
    labels = Labels(owner.server, "k", "attempt", owner.notes)
    words = {"size": "1/4", "kernel_name": "python3", "path": "", "instance": owner.instance}
    return {"metadata": labels.metadata("pod-1", "kernel", **{**words, **notes})}


def test_all_that_the_registry_needs_is_on_the_pod() -> None:
    found = found_on(pod())
    assert found is not None
    assert found.key == Key("ann", "lab", "k") == key_of_owner(found.owner, "k")
    assert (found.attempt, found.name, found.groups) == ("b" * 32, "pod-1", GROUPS)
    assert found.owner == owner_of(ANN, "b" * 32, GROUPS)
    assert groups_of(found.owner) == GROUPS
    assert (str(found.plan.size), found.plan.kernel_name, found.plan.path) == (
        "1/4",
        "python3",
        None,
    )
    assert found.plan.keys is None


def test_of_two_pods_of_one_kernel_the_last_one_counts() -> None:
    found = []
    for name, process, created in (
        ("second", ANN, "2026-11-01T12:00:09Z"),
        ("bobs", Process("bob", "lab", "c" * 32), "2026-11-01T12:00:01Z"),
        ("third", ANN, "2026-11-01T12:00:10Z"),
        ("first", ANN, "2026-10-30T12:00:00Z"),
    ):
        one = pod(process)
        one["metadata"] |= {"name": name, "creationTimestamp": created}
        each = found_on(one)
        assert each is not None
        found.append(each)
    kept, spare = newest(found)
    assert {each.name for each in kept} == {"third", "bobs"}
    assert [each.name for each in spare] == ["first", "second"]


def test_groups_are_known_again_however_many_there_are() -> None:
    """Or a limit of one of them would not hold after a restart."""
    groups = frozenset(f"a group of an organisation with a long name {n}" for n in range(200))
    owner = owner_of(ANN, "b" * 32, groups)
    labels = Labels(owner.server, "k", "attempt", owner.notes)
    found = found_on({"metadata": labels.metadata("pod-1", "kernel", size="1/4")})
    assert found is not None and found.groups == groups


@pytest.mark.parametrize(
    "change",
    [
        {"hub.jupyter.org/username": "bob"},
        {"hub.jupyter.org/servername": ""},
        {"hub.jupyter.org/username": "ann-lab", "hub.jupyter.org/servername": ""},
    ],
)
def test_a_pod_whose_label_says_something_else_is_nobodys(change: dict[str, str]) -> None:
    """Who may change annotations of pods alone gets no kernel of another by it."""
    forged = copy.deepcopy(pod())
    forged["metadata"]["annotations"] |= change
    assert not is_brokered(forged)
    assert found_on(forged) is None


def test_what_no_broker_has_made_is_left_alone() -> None:
    other = pod()
    for note in ("hub.jupyter.org/username", "hub.jupyter.org/servername"):
        del other["metadata"]["annotations"][note]
    assert not is_brokered(other) and found_on(other) is None


def test_what_ends_and_what_makes_no_sense_is_not_gone_on_with() -> None:
    ends = pod()
    ends["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert found_on(ends) is None
    assert found_on(pod(size="nonsense")) is None
    odd = pod()
    odd["metadata"]["annotations"][PREFIX + "groups"] = "{"
    found = found_on(odd)
    assert found is not None and found.groups == frozenset()


def test_those_of_one_second_come_in_the_order_in_which_they_were_asked_for() -> None:
    """The next broker lets them wait in that order; the cluster knows whole seconds alone."""
    found = []
    for name, asked in (("b", 2), ("c", 100_000), ("a", 1)):
        moment = datetime(2026, 11, 1, 12, 0, 9, asked, timezone.utc)
        owner = owner_of(ANN, "b" * 32, GROUPS, moment)
        assert asked_of(owner) == moment
        labels = Labels(owner.server, name, "attempt", owner.notes)
        words = {"size": "1/4", "kernel_name": "python3", "path": "", "instance": owner.instance}
        one = {"metadata": labels.metadata(name, "kernel", **words)}
        one["metadata"]["creationTimestamp"] = "2026-11-01T12:00:09Z"
        each = found_on(one)
        assert each is not None and each.owner == owner
        found.append(each)
    last, spare = newest(found)
    assert [each.name for each in last] == ["a", "b", "c"] and not spare


def test_no_two_kernels_have_one_name() -> None:
    servers = [("alice", "lab"), ("alice-lab", ""), ("alice-", ""), ("alice", "")]
    servers += [("alice/lab", ""), ('alice", "', ""), ("alice", "null")]
    names = {Key(*each, "k").text for each in servers}
    assert len(names) == len(servers)
    assert {key_of(name)[:2] for name in names} == set(servers)
