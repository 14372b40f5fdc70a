"""What the chart consists of, and the files beside it. Nothing is rendered here."""

from __future__ import annotations

import json
import re
import runpy
from typing import Any

import pytest
import yaml
from charts import CHART, ETC, STANZAS
from cluster.build import REPOSITORY
from jsonschema import Draft7Validator
from plans import body, kernel
from traitlets.config import Config

from jupyter_gpu_share._version import __version__
from jupyter_gpu_share.broker.hub import ADMINISTRATOR, share_gpus_of_cluster
from jupyter_gpu_share.cli._parser import make_parser
from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes._objects import HUB_USER

ACCESS = "access:services!service=gpu-share"

#: The keys of Zero to JupyterHub's values that are used here, as its ``values.schema.yaml`` has
#: them (github.com/jupyterhub/zero-to-jupyterhub-k8s, July 2026, for JupyterHub 5.5). Below a key
#: that ends with ``.*`` its schema allows anything.
KNOWN = (
    "hub.config.*",
    "hub.loadRoles.*",
    "hub.networkPolicy.egress.*",
    "hub.services.*",
    "proxy.chp.networkPolicy.egress.*",
    "singleuser.extraEnv.*",
    "singleuser.extraFiles.*",
    "singleuser.networkPolicy.egress.*",
    "singleuser.profileList.*",
)


def stanzas() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(STANZAS.read_text())
    return found


def test_the_chart_has_what_it_takes_from_elsewhere() -> None:
    outdated = runpy.run_path(str(REPOSITORY / "scripts" / "chart.py"))["outdated"]
    paths = [str(path.relative_to(REPOSITORY)) for path, _ in outdated()]
    assert not paths, "run scripts/chart.py"


def test_the_version_of_chart_image_and_package_is_one() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    assert f"ARG VERSION={__version__}" in dockerfile()


# -- the image ---------------------------------------------------------------------------------


def dockerfile() -> list[str]:
    """Its instructions, comments left out."""
    lines = (ETC / "broker" / "Dockerfile").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_image_has_one_pinned_package_and_starts_the_broker() -> None:
    text = dockerfile()
    assert {line.split()[0] for line in text} <= {
        *("ARG", "FROM", "RUN", "ENV", "USER", "EXPOSE", "ENTRYPOINT")
    }
    base = [line.split()[1] for line in text if line.startswith("FROM ")]
    assert base == ["python:${PYTHON}-slim"]
    (run,) = (line for line in text if line.startswith("RUN "))
    assert "pip install --no-cache-dir" in run
    assert '"jupyter-gpu-share[kubernetes,hub]==${VERSION}"' in run
    # After everything that writes files, so that it owns none of them.
    assert text.index(run) < text.index("USER 65532:65532")
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["podSecurityContext"]["runAsUser"] == 65532
    assert text[-1] == 'ENTRYPOINT ["jupyter-gpu-share", "broker"]'
    assert make_parser().parse_args(["broker"])
    with (REPOSITORY / "pyproject.toml").open() as file:
        assert 'jupyter-gpu-share = "jupyter_gpu_share.cli:main"' in file.read()


def test_the_image_has_no_secret() -> None:
    for line in dockerfile():
        assert not re.search(r"(?i)token|passw|secret|key|COPY|ADD|http", line), line


# -- the values of Zero to JupyterHub ----------------------------------------------------------


def leaves(value: Any, path: str = "") -> list[str]:
    if isinstance(value, dict) and value:
        return [
            each
            for key, inner in value.items()
            for each in leaves(inner, f"{path}.{key}" if path else key)
        ]
    return [path]


def test_every_key_is_one_of_zero_to_jupyterhubs() -> None:
    for path in leaves(stanzas()):
        assert any(f"{path}.".startswith(known.removesuffix("*")) for known in KNOWN), path


def commented(key: str) -> dict[str, Any]:
    """What stands below a key in the comments at the end, for some Hubs only."""
    comments = STANZAS.read_text().rpartition(f"# {key}:\n")
    block = re.match(r"(?:#.*\n)+", "".join(comments[1:]))
    assert block
    found: dict[str, Any] = yaml.safe_load(re.sub(r"^# ?", "", block[0], flags=re.MULTILINE))
    return found if key == "hub" else found[key]


def test_what_is_only_sometimes_needed_is_of_the_same_form() -> None:
    optional = commented("hub")
    for path in leaves({**optional, "singleuser": commented("singleuser")}):
        assert any(f"{path}.".startswith(known.removesuffix("*")) for known in KNOWN), path
    assert (
        optional["proxy"]["chp"]["networkPolicy"]["egress"]
        == (optional["hub"]["networkPolicy"]["egress"])
    )


def lists(value: Any, path: str = "") -> list[str]:
    """The paths of all lists."""
    if isinstance(value, list):
        return [path]
    inner = value.items() if isinstance(value, dict) else ()
    return [each for key, one in inner for each in lists(one, f"{path}.{key}".strip("."))]


def test_the_lists_that_would_take_the_place_of_others_are_named() -> None:
    # Of two lists Helm takes the last, so the administrator's own would be gone without a word.
    named = " ".join(STANZAS.read_text().partition("\nhub:")[0].replace("#", "").split())
    ours = ("hub.services.gpu-share.", "hub.loadRoles.gpu-share-admin.", "singleuser.extraFiles.")
    found = [path for path in lists(stanzas()) if not path.startswith(ours)]
    assert len(found) == 3
    for path in found:
        role, _, last = path.removeprefix("hub.loadRoles.").partition(".")
        assert path in named or (last == "scopes" and f"`{role}`" in named), path


def blocks_of_docs() -> list[dict[str, Any]]:
    """The values that the docs show."""
    text = (REPOSITORY / "docs" / "jupyterhub.md").read_text()
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


def test_homes_are_mounted_by_the_users_name() -> None:
    (settings,) = (
        each["config"]["KubernetesEngine"]
        for each in blocks_of_docs()
        if "volumes" in each.get("config", {}).get("KubernetesEngine", {})
    )
    engine = KubernetesEngine(config=Config({"KubernetesEngine": settings}))
    container = kernel(body(patches=engine.additions))
    assert {"name": "homes", "mountPath": "/home/jovyan", "subPathExpr": "home/$(HUB_USER)"} in (
        container["volumeMounts"]
    )
    (name,) = (each for each in container["env"] if each["name"] == "HUB_USER")
    assert name["valueFrom"]["fieldRef"]["fieldPath"] == f"metadata.annotations['{HUB_USER}']"


def over_defaults(values: dict[str, Any], below: dict[str, Any] | None = None) -> dict[str, Any]:
    """What Helm holds against the schema."""
    if below is None:
        below = yaml.safe_load((CHART / "values.yaml").read_text())
    found = {**below, **values}
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            found[key] = over_defaults(value, below[key])
    return found


def test_what_the_docs_say_of_values_are_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    blocks = blocks_of_docs()
    assert len(blocks) > 2
    for values in blocks:
        ours = not values.keys() & {"hub", "proxy", "singleuser"}
        if ours:
            Draft7Validator(schema).validate(over_defaults(values))
        for path in [] if ours else leaves(values):
            assert any(f"{path}.".startswith(known.removesuffix("*")) for known in KNOWN), path
    # The key of the Secret follows from the service's name.
    (service,) = (name for each in blocks for name in each.get("hub", {}).get("services", ()))
    assert (
        f"`hub.services.{service}.apiToken`" in (REPOSITORY / "docs" / "jupyterhub.md").read_text()
    )


@pytest.mark.parametrize(
    ("section", "setting", "value", "heeded"),
    [
        ("IdlePolicy", "warn_before", 60, True),
        ("IdlePolicy", "in_place", False, True),
        ("IdlePolicy", "timeout", 60, False),
        ("IdlePolicy", "snapshot_limit", 1, False),
        ("SizePolicy", "maximum", "1/2", True),
        ("SizePolicy", "max_total", "1", False),
        ("KubernetesEngine", "kubeconfig", "x", False),
    ],
)
def test_what_the_broker_does_not_heed_is_refused(
    section: str, setting: str, value: Any, heeded: bool
) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = over_defaults({"config": {section: {setting: value}}})
    assert Draft7Validator(schema).is_valid(values) is heeded


def test_images_without_the_package_start_kernels_all_the_same() -> None:
    # A provisioner that is not installed would hide every kernelspec of such an image.
    assert set(stanzas()["singleuser"]["extraEnv"]) == {"JUPYTER_GPU_SHARE_BROKER"}


def test_both_ways_configure_the_same_hub() -> None:
    from jupyterhub.app import JupyterHub
    from traitlets.config import Config

    c = Config()
    share_gpus_of_cluster(c, "http://gpu-share-broker:8000/", "t" * 32)
    hub, told = JupyterHub(config=c), stanzas()
    (service,) = hub.services
    assert service.pop("api_token") == "t" * 32  # Zero to JupyterHub makes its own
    assert service.pop("name") == "gpu-share"
    assert {**service, "display": True} == told["hub"]["services"]["gpu-share"]
    roles = {role.pop("name"): role for role in hub.load_roles}
    assert roles == told["hub"]["loadRoles"]
    scopes = told["hub"]["config"]["JupyterHub"]["custom_scopes"]
    assert set(hub.custom_scopes) == set(scopes) == {ADMINISTRATOR}
    assert c.Spawner.environment.get_value({}) == told["singleuser"]["extraEnv"]


def test_no_role_of_the_hub_loses_what_it_had() -> None:
    from jupyterhub.roles import get_default_roles

    usual = {role["name"]: role["scopes"] for role in get_default_roles()}
    for name in ("user", "server"):
        assert stanzas()["hub"]["loadRoles"][name]["scopes"] == [*usual[name], ACCESS]


def test_roles_that_were_configured_before_stay() -> None:
    from jupyterhub.app import JupyterHub
    from traitlets.config import Config

    c = Config()
    c.JupyterHub.load_roles = [{"name": "server", "scopes": ["self"]}, {"name": "x"}]
    share_gpus_of_cluster(c, "http://b:8000", "t" * 32, ["cat"], ["staff"], base_url="/hubs/")
    roles = {role.pop("name"): role for role in JupyterHub(config=c).load_roles}
    assert roles["server"]["scopes"] == ["self", ACCESS]
    assert roles["user"]["scopes"] == ["self", ACCESS]
    assert (roles["gpu-share-admin"]["users"], roles["gpu-share-admin"]["groups"]) == (
        ["cat"],
        ["staff"],
    )
    assert "x" in roles
    broker = c.Spawner.environment.get_value({})["JUPYTER_GPU_SHARE_BROKER"]
    assert broker == "http://b:8000/hubs/services/gpu-share"


def test_the_settings_of_users_servers_are_settings() -> None:
    from traitlets.config import Config

    from jupyter_gpu_share.size import Size, SizePolicy

    (file,) = stanzas()["singleuser"]["extraFiles"].values()
    assert file["mountPath"].endswith("/jupyter_server_config.d/gpu-share.json")
    assert set(file["data"]) == {"SizePolicy"}
    policy = SizePolicy(config=Config(file["data"]))
    offered = {each["size"] for each in policy.offered}
    for profile in commented("singleuser")["profileList"]:
        (variables,) = profile["kubespawner_override"].values()
        assert set(variables) == {"JUPYTER_GPU_SHARE_SIZE"}
        assert variables["JUPYTER_GPU_SHARE_SIZE"] in offered
        Size.parse(variables["JUPYTER_GPU_SHARE_SIZE"])


@pytest.mark.parametrize("name", ["values.yaml", "templates/NOTES.txt"])
def test_no_text_of_the_chart_names_a_registry(name: str) -> None:
    assert not re.search(r"\b(docker|ghcr|quay|registry)\.(io|k8s)", (CHART / name).read_text())
