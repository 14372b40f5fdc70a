"""Additions are merged into a pod as Kubernetes merges a strategic patch.

What is expected here is what the ``strategicpatch`` package of Kubernetes 1.37 makes of the same
pod and patch, save that it puts new entries of a list first.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpu_share.engines.kubernetes._merge import merge

BASE: dict[str, Any] = {
    "metadata": {
        "labels": {"a": "1", "b": "2"},
        "finalizers": ["x/y"],
        "ownerReferences": [{"uid": "1", "name": "o"}],
    },
    "spec": {
        "nodeSelector": {"a": "b"},
        "securityContext": {"runAsNonRoot": True, "supplementalGroups": [1]},
        "tolerations": [{"key": "a"}],
        "imagePullSecrets": [{"name": "r"}],
        "resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}],
        "schedulingGates": [{"name": "g"}],
        "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a"]}],
        "topologySpreadConstraints": [{"topologyKey": "z", "maxSkew": 1}],
        "volumes": [{"name": "v", "secret": {"secretName": "s"}}, {"name": "w", "emptyDir": {}}],
        "containers": [
            {
                "name": "kernel",
                "image": "i",
                "command": ["python3", "-m", "x"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "envFrom": [{"secretRef": {"name": "q"}}],
                "ports": [{"name": "p", "containerPort": 1}],
                "resources": {"limits": {"m": "1"}, "claims": [{"name": "gpu"}]},
                "securityContext": {"capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            }
        ],
    },
}


def spec(key: str, value: Any) -> Any:
    """What the pod's spec has for a key after it was patched with a value."""
    return merge(BASE, {"spec": {key: value}})["spec"].get(key)


def container(key: str, value: Any) -> Any:
    """The same of the kernel's container."""
    patched = spec("containers", [{"name": "kernel", key: value}])
    assert len(patched) == 1
    return patched[0].get(key)


@pytest.mark.parametrize(
    ("key", "patch", "becomes"),
    [
        # Objects are merged, None removes.
        ("nodeSelector", {"a": None, "c": "d"}, {"c": "d"}),
        ("nodeSelector", {"c": "d"}, {"a": "b", "c": "d"}),
        ("nodeSelector", None, None),
        ("nodeSelector", {"$patch": "replace", "c": "d"}, {"c": "d"}),
        ("nodeSelector", {"$patch": "delete"}, {}),
        ("affinity", {"nodeAffinity": {"x": None}}, {"nodeAffinity": {}}),
        # Lists of named things are merged by name.
        ("imagePullSecrets", [{"name": "r"}, {"name": "s"}], [{"name": "r"}, {"name": "s"}]),
        ("schedulingGates", [{"name": "h"}], [{"name": "g"}, {"name": "h"}]),
        (
            "hostAliases",
            [{"ip": "1.1.1.1", "hostnames": ["b"]}],
            [{"ip": "1.1.1.1", "hostnames": ["b"]}],
        ),
        (
            "topologySpreadConstraints",
            [{"topologyKey": "z", "maxSkew": 2}],
            [{"topologyKey": "z", "maxSkew": 2}],
        ),
        (
            "resourceClaims",
            [{"name": "x", "resourceClaimName": "d"}],
            [
                {"name": "gpu", "resourceClaimName": "c"},
                {"name": "x", "resourceClaimName": "d"},
            ],
        ),
        ("volumes", [{"name": "v", "$patch": "delete"}], [{"name": "w", "emptyDir": {}}]),
        ("volumes", [{"name": "u", "$patch": "delete"}], BASE["spec"]["volumes"]),
        ("volumes", [{"$patch": "replace"}, {"name": "n"}], [{"name": "n"}]),
        ("volumes", [{"name": "v", "$patch": "replace"}, {"name": "n"}], [{"name": "n"}]),
        ("volumes", [], BASE["spec"]["volumes"]),
        ("volumes", None, None),
        (
            "volumes",
            [{"name": "v", "emptyDir": {}, "secret": None}],
            [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}],
        ),
        ("initContainers", [{"name": "i", "tty": None}], [{"name": "i"}]),
        # All other lists are wholes.
        ("tolerations", [{"key": "b"}], [{"key": "b"}]),
        ("securityContext", {"supplementalGroups": [2]}, {
            "runAsNonRoot": True, "supplementalGroups": [2],
        }),
    ],
)  # fmt: skip
def test_a_part_of_the_spec(key: str, patch: Any, becomes: Any) -> None:
    assert spec(key, patch) == becomes


@pytest.mark.parametrize(
    ("key", "patch", "becomes"),
    [
        (
            "env",
            [{"name": "A", "value": "3"}, {"name": "C", "value": "4"}],
            [
                {"name": "A", "value": "3"},
                {"name": "B", "value": "2"},
                {"name": "C", "value": "4"},
            ],
        ),
        ("env", [{"name": "A", "$patch": "delete"}], [{"name": "B", "value": "2"}]),
        ("env", None, None),
        ("envFrom", [{"secretRef": {"name": "z"}}], [{"secretRef": {"name": "z"}}]),
        ("command", ["sh"], ["sh"]),
        ("command", None, None),
        ("ports", [{"containerPort": 1, "name": "q"}], [{"containerPort": 1, "name": "q"}]),
        (
            "ports",
            [{"containerPort": 2}],
            [{"name": "p", "containerPort": 1}, {"containerPort": 2}],
        ),
        (
            "resources",
            {"claims": [{"name": "b"}]},
            {"limits": {"m": "1"}, "claims": [{"name": "b"}]},
        ),
        (
            "resources",
            {"limits": {"m": None, "n": "2"}},
            {"limits": {"n": "2"}, "claims": [{"name": "gpu"}]},
        ),
        ("securityContext", {"capabilities": {"drop": []}}, {"capabilities": {"drop": []}}),
        ("volumeMounts", [{"mountPath": "/v", "name": "w"}], [{"mountPath": "/v", "name": "w"}]),
        (
            "volumeMounts",
            [{"mountPath": "/v", "$patch": "delete"}, {"mountPath": "/u", "name": "w"}],
            [{"mountPath": "/u", "name": "w"}],
        ),
    ],
)
def test_a_part_of_the_kernels_container(key: str, patch: Any, becomes: Any) -> None:
    assert container(key, patch) == becomes


def test_metadata_is_merged_too() -> None:
    meta = merge(
        BASE,
        {
            "metadata": {
                "labels": {"a": None, "c": "3"},
                "finalizers": ["z/z", "x/y"],
                "ownerReferences": [{"uid": "2", "name": "p"}],
            }
        },
    )["metadata"]
    assert meta["labels"] == {"b": "2", "c": "3"}
    assert meta["finalizers"] == ["x/y", "z/z"]
    assert [owner["uid"] for owner in meta["ownerReferences"]] == ["1", "2"]


def test_labels_may_be_called_like_a_list_of_the_spec() -> None:
    patch = {"metadata": {"labels": {"env": "prod", "ports": "none"}}}
    assert merge(BASE, patch)["metadata"]["labels"]["env"] == "prod"


def test_the_kernels_container_stays_the_first() -> None:
    names = [c["name"] for c in spec("containers", [{"name": "a"}, {"name": "kernel"}])]
    assert names == ["kernel", "a"]


def test_two_entries_for_one_name_come_one_after_the_other() -> None:
    patch = [{"name": "x", "tty": True}, {"name": "x", "stdin": True}]
    assert spec("containers", patch)[1] == {"name": "x", "tty": True, "stdin": True}


def test_tuples_are_lists() -> None:
    assert spec("volumes", ({"name": "n"},)) == [*BASE["spec"]["volumes"], {"name": "n"}]


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        ({"spec": []}, "'spec'"),
        ({"spec": "x"}, "'spec'"),
        ({"spec": {"containers": {}}}, "'containers'"),
        ({"spec": {"containers": "x"}}, "'containers'"),
        ({"spec": {"nodeSelector": ["a"]}}, "'nodeSelector'"),
        ({"spec": {"containers": ["kernel"]}}, "'name'"),
        ({"spec": {"containers": [{"image": "x"}]}}, "'name'"),
        ({"spec": {"volumes": [{"$patch": "delete"}]}}, "'name'"),
        ({"spec": {"volumes": [{"$patch": "wipe", "name": "v"}]}}, "'wipe'"),
        ({"spec": {"$retainKeys": ["volumes"]}}, "retainKeys"),
        ({"spec": {"$setElementOrder/volumes": []}}, "setElementOrder"),
        ({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/y"]}}, "deleteFromPrimitive"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(patch: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        merge(BASE, patch)


plain = st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "x"])
named = st.fixed_dictionaries({"name": st.sampled_from("abc")}, optional={"v": plain})
values = st.recursive(
    plain,
    lambda inner: (
        st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3)
        | st.lists(plain, max_size=3)
    ),
    max_leaves=6,
)
objects = st.fixed_dictionaries(
    {},
    optional={
        "env": st.lists(named, max_size=3),
        "command": st.lists(plain, max_size=3),
        "labels": st.dictionaries(st.sampled_from("abc"), plain, max_size=3),
        "x": values,
    },
)


def _no_nulls(value: Any) -> bool:
    if isinstance(value, dict):
        return all(item is not None and _no_nulls(item) for item in value.values())
    return all(_no_nulls(item) for item in value) if isinstance(value, list) else True


@given(objects.filter(_no_nulls), objects)
def test_neither_side_is_changed_nothing_is_shared_and_no_null_stays(
    base: dict[str, Any], patch: dict[str, Any]
) -> None:
    before = copy.deepcopy((base, patch))
    try:
        merged = merge(base, patch)
    except TypeError:
        merged = {}
    assert (base, patch) == before
    assert _no_nulls(merged)
    _scribble(merged)
    assert (base, patch) == before


def _scribble(value: Any) -> None:
    """Change every object and list within."""
    for item in list(value.values() if isinstance(value, dict) else value):
        if isinstance(item, dict | list):
            _scribble(item)
    if isinstance(value, dict):
        value["scribbled"] = True
    else:
        value.append("scribbled")


@given(objects)
def test_an_empty_patch_and_a_repeated_one_change_nothing(base: dict[str, Any]) -> None:
    clean = merge({}, base)
    assert merge(clean, {}) == clean
    assert merge(clean, clean) == clean
    assert json.loads(json.dumps(clean)) == clean
