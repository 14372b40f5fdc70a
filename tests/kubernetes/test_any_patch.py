"""Whatever an administrator adds, what passes the check is safe and still our pod."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from plans import NAME, RICH, body, kernel
from pod_security import breaks

from jupyter_gpu_share.engines.kubernetes._check import PodRefused

maybe = st.none() | st.booleans()
plain = st.sampled_from(["q", "r", None])
profiles = st.none() | st.just({}) | st.fixed_dictionaries(
    {"type": st.sampled_from(["RuntimeDefault", "Localhost", "Unconfined", "", None, "x"])}
)  # fmt: skip
capabilities = st.lists(st.sampled_from(["ALL", "NET_BIND_SERVICE", "SYS_ADMIN", "all", ""]))
contexts = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "privileged": maybe,
        "allowPrivilegeEscalation": maybe,
        "runAsNonRoot": maybe,
        "runAsUser": st.sampled_from([None, 0, 1, False]),
        "procMount": st.sampled_from([None, "Default", "Unmasked", ""]),
        "seccompProfile": profiles,
        "appArmorProfile": profiles,
        "capabilities": st.none() | st.fixed_dictionaries(
            {}, optional={"add": capabilities, "drop": capabilities}
        ),
        "windowsOptions": st.sampled_from([None, {}, {"hostProcess": True}]),
        "sysctls": st.sampled_from([None, [], [{"name": "a", "value": "b"}]]),
        "seLinuxOptions": st.none() | st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["", "container_t", "spc_t", None]),
                "user": st.sampled_from(["", "u", None]),
                "role": st.sampled_from(["", "r", None]),
            },
        ),
        "$patch": st.sampled_from(["merge", "replace", "delete"]),
    },
)  # fmt: skip
handlers = st.fixed_dictionaries(
    {},
    optional={
        kind: st.sampled_from([{"port": 1}, {"port": 1, "host": "h"}, {"port": 1, "host": ""}])
        for kind in ("httpGet", "tcpSocket")
    },
)
volumes = st.fixed_dictionaries(
    {"name": st.sampled_from(["v", "w", "gpu-share-files", "gpu-share-connection"])},
    optional={
        "emptyDir": st.just({}),
        "hostPath": st.sampled_from([None, {"path": "/"}]),
        "secret": st.fixed_dictionaries({"secretName": st.sampled_from(["mine", NAME])}),
        "configMap": st.just({"name": "mine"}),
        "nfs": st.just({"server": "a", "path": "/"}),
        "$patch": st.sampled_from(["merge", "replace", "delete"]),
    },
)
mounts = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["v", "gpu-share-connection"]),
        "mountPath": st.sampled_from(["/v", "/opt/gpu-share/files", "/opt/gpu-share/connection"]),
    },
    optional={"$patch": st.sampled_from(["merge", "replace", "delete"])},
)
variables = st.fixed_dictionaries(
    {"name": st.sampled_from(["A", "PYTHONPATH", "CUDA_VISIBLE_DEVICES"])},
    optional={"value": st.just("x"), "$patch": st.sampled_from(["merge", "replace", "delete"])},
)
containers = st.fixed_dictionaries(
    {"name": st.sampled_from(["kernel", "side"])},
    optional={
        "securityContext": contexts,
        "ports": st.lists(
            st.fixed_dictionaries(
                {"containerPort": st.sampled_from([1, 52001])},
                optional={"hostPort": st.sampled_from([0, 80, None])},
            )
        ),
        "livenessProbe": handlers,
        "lifecycle": st.none() | st.fixed_dictionaries({}, optional={"preStop": handlers}),
        "volumeMounts": st.none() | st.lists(mounts, max_size=2),
        "env": st.none() | st.lists(variables, max_size=2),
        "command": st.sampled_from([None, ["sh"], ["python3", "-m", "gpu_share_kernel.agent"]]),
        "$patch": st.sampled_from(["merge", "replace", "delete"]),
    },
)
patches = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries(
            {},
            optional={
                "name": st.sampled_from([NAME, "other"]),
                "labels": st.none() | st.dictionaries(st.sampled_from(["a", "queue"]), plain),
                "annotations": st.dictionaries(
                    st.sampled_from(
                        ["a", "container.apparmor.security.beta.kubernetes.io/kernel"]
                    ),
                    st.sampled_from(["runtime/default", "localhost/a", "unconfined", "runtime/"]),
                ),
            },
        ),
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "hostNetwork": maybe,
                "hostPID": maybe,
                "hostIPC": maybe,
                "securityContext": contexts,
                "volumes": st.none() | st.lists(volumes, max_size=2),
                "containers": st.lists(containers, max_size=2),
                "initContainers": st.lists(containers, max_size=1),
                "restartPolicy": st.sampled_from(["Never", "Always"]),
            },
        ),
    },
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.lists(patches, min_size=1, max_size=2))
def test_whatever_passes_keeps_to_the_standard_and_is_still_ours(changes: list[Any]) -> None:
    before = body(rendered=RICH)
    try:
        pod = body(rendered=RICH, patches=changes)
    except PodRefused:
        event("refused")
        return
    event("passed")
    assert breaks(pod) == []
    for kind in ("labels", "annotations"):
        assert before["metadata"][kind].items() <= pod["metadata"][kind].items()
    assert pod["metadata"]["name"] == NAME
    for name in ("volumes", "resourceClaims"):
        assert all(entry in pod["spec"][name] for entry in before["spec"][name])
    ours, theirs = kernel(before), kernel(pod)
    assert (theirs["command"], theirs["args"]) == (ours["command"], ours["args"])
    for name in ("env", "volumeMounts"):
        assert all(entry in theirs[name] for entry in ours[name])
    assert theirs["resources"] == ours["resources"]
