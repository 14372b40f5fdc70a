"""What ends of kernels have cost is told by the next broker, too."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_objects import FakeObjects
from homes import FakeHome, held
from moments import MINUTE, START
from waiting import eventually

from jupyter_gpu_share.broker.cluster.losses import Loss, read_losses, write_losses
from jupyter_gpu_share.broker.cluster.presence import QUIET, Process
from jupyter_gpu_share.broker.cluster.ruling import Key
from jupyter_gpu_share.engines.base import Exit
from jupyter_gpu_share.engines.kubernetes.api import KubernetesError, NotFound
from jupyter_gpu_share.size import Size


def loss(kernel_id: str = "k", minutes: float = 5.0, **more: object) -> Loss:
    fields = {
        "key": Key("ann", 'lab "é"', kernel_id),
        "attempt": "a" * 32,
        "instance": "b" * 32,
        "born": "",
        "size": Size.parse("2x1/2"),
        "kernel_name": "python3",
        "path": "folder/a.ipynb",
        "words": "Its variables are gone.",
        "code": -15,
        "until": START + minutes * MINUTE,
    }
    return Loss(**{**fields, **more})  # type: ignore[arg-type]


def test_what_is_written_is_read_until_its_time_is_over(tmp_path: Path) -> None:
    assert read_losses(tmp_path, START) == []
    kept = [loss("a"), loss("b", 1), loss("c", path=None)]
    write_losses(tmp_path, kept)
    assert read_losses(tmp_path, START) == kept
    assert read_losses(tmp_path, START + MINUTE) == [kept[0], kept[2]]
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0, "it names users and notebooks"
    write_losses(tmp_path, [])
    assert read_losses(tmp_path, START) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '[{"key": []}]', '"x"', "null"])
def test_a_file_that_makes_no_sense_ends_no_broker(tmp_path: Path, text: str) -> None:
    (tmp_path / "losses.json").write_text(text)
    assert read_losses(tmp_path, START) == []
    write_losses(tmp_path, [loss()])
    row = json.loads((tmp_path / "losses.json").read_text())[0]
    for name in row:
        if name != "path":
            (tmp_path / "losses.json").write_text(json.dumps([{**row, name: [None]}]))
            assert len(read_losses(tmp_path, START)) <= 1


async def test_the_next_broker_tells_what_was_lost_once(home: FakeHome) -> None:
    told = 0

    def lost() -> None:
        nonlocal told
        told += 1

    home.registry._lost = lost
    ann = home.user("ann")
    home.cluster.detachable = False
    await ann.start("gone")
    home.gone(ann)
    await eventually(lambda: not held(home), "it has ended with its server")
    (known,) = home.registry.losses(START)
    assert told == 1 and "variables are gone" in known.words
    assert timedelta(seconds=home.kept - 60) < known.until - START <= timedelta(seconds=home.kept)
    before = await ann.again().row("gone")
    await home.registry.close()

    second = home._registry()
    second._lost = lost
    second.restore_loss(known, START)
    second.restore_loss(known, START)
    (row,) = second.rows("ann", "", "c" * 32)
    assert row == {**(before or {}), "name": row["name"], "share": None, "address": None}
    assert second.losses(START) and not home.rules.held
    assert await second.end(Process("ann", "", "c" * 32), "gone", known.attempt)
    assert second.rows("ann", "") == [] and second.losses(START) == [] and told == 2
    await second.close()


async def test_a_kernel_that_is_there_is_told_of_and_not_what_was_lost_before(
    home: FakeHome,
) -> None:
    ann = home.user("ann")
    await ann.start()
    home.registry.restore_loss(loss(key=Key("ann", "", "k")), START)
    assert (await ann.row() or {})["state"] == "ready"


async def test_what_was_lost_is_forgotten_in_time_and_is_not_another_users(
    home: FakeHome,
) -> None:
    home.registry.restore_loss(loss("short", minutes=0.001), START)
    home.registry.restore_loss(loss("other", born="2026-01-01T00:00:00Z"), START)
    assert all(isinstance(each.objects, FakeObjects) for each in home.registry)
    await eventually(
        lambda: [each.key.kernel_id for each in home.registry] == ["other"], "it is forgotten"
    )
    home.registry.hear_user("ann", "2026-02-01T00:00:00Z")
    assert list(home.registry) == []


# -- ends that nobody was there to hear of -------------------------------------------------------


def told(row: dict[str, Any] | None) -> bool:
    """Whether a row says what its notebook has lost, and why."""
    assert row is not None and row["state"] == "ended", row
    return "while its server was away" in row["lost_work"] and "It was evicted." in row["lost_work"]


@pytest.mark.parametrize("parked", [True, False])
async def test_a_kept_kernel_whose_pod_ends_is_told_of_and_then_forgotten(
    home: FakeHome, parked: bool
) -> None:
    """With a share that was given back before its server stopped, or after it."""
    ann = home.user("ann")
    row = await ann.start()
    if not parked:
        await ann.ok("POST", "/v1/shares/k/release", {"attempt": row["attempt"]})
    else:
        idle = {"idle_seconds": 5, "keep_seconds": None, "vacated": True}
        await ann.ok("PUT", "/v1/idle", {"kernels": {"k": idle}})
    home.gone(ann)
    await ann.again().until("k", "released")
    await eventually(lambda: held(home)[0].lent, "its share is given back")
    held(home)[0].end(Exit(-9, "It was evicted."))
    second = ann.again()
    await second.until("k", "ended")
    assert told(await second.row("k"))
    (known,) = home.registry.losses(START)
    assert timedelta(0) < known.until - START <= timedelta(seconds=home.kept)
    await eventually(lambda: not held(home), "nothing is left in the cluster")
    assert not home.rules.held
    (kernel,) = home.registry
    assert kernel.later is not None
    kernel.later._run()  # type: ignore[attr-defined]
    assert list(home.registry) == []


async def test_an_end_that_a_crashed_server_did_not_hear_of_is_told_to_the_next(
    home: FakeHome,
) -> None:
    """It counts as there for a while: its next process may come at any time."""
    ann, bob = home.user("ann"), home.user("bob")
    await ann.start()
    await bob.start()
    process = Process("ann", "", ann.instance)
    signs = home.registry.presence._signs[process]
    home.registry.presence._signs[process] = replace(signs, heard=signs.heard - QUIET)
    assert home.registry.presence.alive(process)
    for pod in held(home):
        pod.end(Exit(-9, "It was evicted."))
    second = ann.again()
    await second.until("k", "ended")
    assert told(await second.row("k"))
    # One that is there hears of it at once, and tells its notebook itself.
    await bob.until("k", "ended")
    row = await bob.row("k")
    assert row is not None and row["lost_work"] == ""
    home.gone(bob)
    await eventually(lambda: len(list(home.registry)) == 1, "his row goes with his server")


async def test_what_was_taken_over_is_not_lost(home: FakeHome) -> None:
    """The pod of a kernel that another broker gave to another process is left alone."""
    ann = home.user("ann")
    row = await ann.start()
    await ann.ok("POST", "/v1/shares/k/release", {"attempt": row["attempt"]})
    home.gone(ann)
    await ann.again().until("k", "released")
    (pod,) = held(home)
    pod.lost = True
    pod.end(Exit(-9, "taken over"))
    await ann.again().until("k", "ended")
    assert pod.name in home.cluster.pods and home.registry.losses(START) == []
    (kernel,) = home.registry
    assert kernel.later is not None
    kernel.later._run()  # type: ignore[attr-defined]
    assert list(home.registry) == []


@pytest.mark.parametrize("back", [True, False])
async def test_an_end_during_a_restart_is_lost_only_if_its_process_does_not_come_back(
    home: FakeHome, back: bool
) -> None:
    """A process that is there hears of it as soon as it hears anything."""
    ann = home.user("ann")
    row = await ann.start()
    process = Process("ann", "", ann.instance)
    first = home.registry
    home.cluster.over[row["name"]] = Exit(-9, "It was evicted.")
    await first.close()
    second = home.registry = home.restored(list(first))
    await eventually(
        lambda: [row["state"] for row in second.rows("ann", "")] == ["ended"], "its end is seen"
    )
    assert second.rows("ann", "")[0]["lost_work"] == ""
    if back:
        with second.presence.stream(process):
            second.heard_all(process)
    home.gone(ann)
    if back:
        await eventually(lambda: not second.rows("ann", ""), "it was told, and is forgotten")
    else:
        await eventually(lambda: second.losses(START), "it is to be told")
        assert told(second.rows("ann", "")[0])


async def test_a_stream_that_was_closed_hears_nothing(home: FakeHome) -> None:
    process = Process("ann", "", "a" * 32)
    presence = home.registry.presence
    assert not presence.hears(process)
    with presence.stream(process):
        assert presence.hears(process)
    assert presence.holds(process) and not presence.hears(process)
    presence.hear(process)
    assert presence.hears(process)


@pytest.mark.parametrize("gone", [True, False])
async def test_a_kernel_that_could_not_be_taken_over_is_kept_or_told_of(
    home: FakeHome, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """Its pod may be gone, which only the one who tried has heard; or the cluster has refused."""
    ann = home.user("ann")
    row = await ann.start()
    await ann.ok("POST", "/v1/shares/k/release", {"attempt": row["attempt"]})
    home.gone(ann)
    second = ann.again()
    before = await second.until("k", "released")
    (kept,) = home.registry

    async def adopt(self: FakeObjects, *_: Any) -> None:
        if gone:
            home.cluster.pods.pop(self.name)
            raise NotFound("There is no such pod.")
        raise KubernetesError("The Kubernetes API refuses.")

    monkeypatch.setattr(FakeObjects, "adopt", adopt)
    body = {"attempt": "c" * 32, "before": before["instance"]}
    assert (await second.ask("POST", "/v1/shares/k/adopt", body))[0] >= 400
    (kernel,) = home.registry
    assert kernel is kept and kernel.later is not None, "it is forgotten one day"
    if gone:
        assert "while its server was away" in (await second.row("k") or {})["lost_work"]
        assert (await second.ask("POST", "/v1/shares/k/adopt", body))[0] == 409
    else:
        assert (await second.row("k") or {})["state"] == "released"
