"""Which backends a cluster offers, and which one is taken."""

from __future__ import annotations

import pytest
from shapes import Shapes

from jupyter_gpu_share.engines.kubernetes.backends import (
    BACKENDS,
    Facts,
    asks_for_gpus,
    detect,
    make_backend,
    trimmed,
)
from jupyter_gpu_share.errors import EngineError

DRA, KAI, HAMI = Shapes("dra"), Shapes("kai"), Shapes("hami")
MIG, PLUGIN = Shapes("mig"), Shapes("device_plugin")
KAI_GROUPS = frozenset({"scheduling.run.ai/v2", "scheduling.run.ai/v2alpha2", "kai.scheduler/v1"})
DRA_GROUP = "resource.k8s.io/v1"


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (Facts(), ()),
        (Facts(groups=frozenset({DRA_GROUP})), ()),
        (Facts(groups=frozenset({DRA_GROUP}), slices=[DRA.shared80]), ("dra",)),
        (Facts(slices=[DRA.shared80]), ()),
        (Facts(nodes=[PLUGIN.slices4]), ("device-plugin",)),
        (Facts(nodes=[PLUGIN.renamed]), ("device-plugin",)),
        (Facts(nodes=[MIG.mixed]), ("mig",)),
        (Facts(nodes=[MIG.single]), ("mig",)),
        (Facts(nodes=[MIG.mixed, PLUGIN.whole]), ("mig", "device-plugin")),
        (Facts(nodes=[HAMI.node]), ("hami", "device-plugin")),
        (Facts(groups=KAI_GROUPS, nodes=[KAI.node]), ("kai", "device-plugin")),
        (
            Facts(
                groups=KAI_GROUPS | {DRA_GROUP},
                nodes=[KAI.node, MIG.mixed, HAMI.node],
                slices=[DRA.shared80],
            ),
            ("dra", "kai", "hami", "mig", "device-plugin"),
        ),
    ],
)
def test_the_best_that_a_cluster_offers_comes_first(facts: Facts, found: tuple[str, ...]) -> None:
    assert detect(facts) == found


DRAPED = {**KAI.node, "metadata": {**KAI.node["metadata"], "name": "node-3"}}  # as DRA.whole has it
TAINTED = {**PLUGIN.slices4, "spec": {"taints": [{"key": "team", "effect": "NoSchedule"}]}}


@pytest.mark.parametrize(
    ("nodes", "slices", "best"),
    [
        ([PLUGIN.slices4], [DRA.whole], "device-plugin"),
        ([PLUGIN.renamed], [DRA.whole], "device-plugin"),
        ([MIG.mixed], [DRA.whole], "mig"),
        ([HAMI.node], [DRA.whole], "hami"),
        ([KAI.node], [DRA.whole], "kai"),
        # Nothing else that is known to share.
        ([], [DRA.whole], "dra"),
        ([DRAPED], [DRA.whole], "dra"),
        ([PLUGIN.whole], [DRA.whole], "dra"),
        ([PLUGIN.unlabelled], [DRA.whole], "dra"),
        ([TAINTED], [DRA.whole], "dra"),
        # DRA shares, be it on one node of many.
        ([PLUGIN.slices4], [DRA.whole, DRA.shared80], "dra"),
        ([PLUGIN.slices4], [DRA.whole, DRA.mig], "dra"),
    ],
)
def test_a_driver_that_offers_whole_gpus_only_comes_after_those_that_share(
    nodes: list[dict], slices: list[dict], best: str
) -> None:
    groups = {DRA_GROUP} | (KAI_GROUPS if best == "kai" or DRAPED in nodes else set())
    facts = Facts(groups=frozenset(groups), nodes=nodes, slices=slices)
    assert detect(facts)[0] == best
    assert "dra" in detect(facts)


def test_slices_of_other_drivers_are_no_gpus() -> None:
    other = DRA.shared80
    other["spec"]["driver"] = "cpu.example.com"
    assert detect(Facts(groups=frozenset({DRA_GROUP}), slices=[other])) == ()


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_says_what_it_reads_and_what_its_options_mean(name: str) -> None:
    backend = make_backend(name, {})
    assert backend.name == name
    assert backend.style == backend.styles[0] == "pod"
    readable = {"nodes", "pods", "resourceslices", "resourceclaims", "deviceclasses"}
    assert backend.reads
    assert backend.reads <= readable
    assert all(text.endswith(".") for text in backend.options.values())
    with pytest.raises(EngineError, match=f"The backend {name} has no option colour"):
        make_backend(name, {"colour": "red"})


@pytest.mark.parametrize(
    ("name", "style", "works"),
    [
        ("dra", "lease", True),
        ("dra", "annotation", False),
        ("kai", "annotation", True),
        ("kai", "lease", False),
        ("hami", "lease", False),
        ("device-plugin", "annotation", False),
        ("mig", "lease", False),
    ],
)
def test_a_style_that_a_backend_has_not_is_refused(name: str, style: str, works: bool) -> None:
    if works:
        assert make_backend(name, {}, style).style == style
    else:
        with pytest.raises(EngineError, match=f"cannot hold shares in style '{style}'; it has pod"):
            make_backend(name, {}, style)


def test_there_is_no_other_backend() -> None:
    with pytest.raises(EngineError, match="there is dra, kai, hami, mig, device-plugin"):
        make_backend("slurm", {})


@pytest.mark.parametrize(
    ("pod", "asks"),
    [
        (PLUGIN.pod, True),
        (KAI.fraction, True),
        (KAI.container, True),
        (KAI.reservation, True),
        (HAMI.pod, True),
        (HAMI.pod_pending, False),
        ({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "web"}]}}, False),
        ({}, False),
    ],
)
def test_of_all_pods_only_those_that_ask_for_gpus_are_kept(pod: dict, asks: bool) -> None:
    assert asks_for_gpus(pod) is asks


def test_what_is_kept_of_a_pod_is_little() -> None:
    pod = KAI.hami_core
    pod["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = "x" * 9999
    pod["metadata"]["managedFields"] = ["x" * 9999]
    pod["status"]["containerStatuses"] = ["x" * 9999]
    kept = trimmed(pod)
    assert len(str(kept)) < 1000
    assert asks_for_gpus(kept)
    assert kept["metadata"]["annotations"] == {
        "gpu-memory": "20480",
        "received-resource-type": "Fraction",
    }
