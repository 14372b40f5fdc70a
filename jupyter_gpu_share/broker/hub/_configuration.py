"""What the Hub's configuration needs for shares and for the page. Loaded by the Hub."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ._hub import access_scope

__all__ = ["ADMINISTRATOR", "share_gpus", "share_gpus_of_cluster"]

#: The scope of who sees and ends the kernels of all users.
ADMINISTRATOR = "custom:gpu-share:admin"
_NAME = "gpu-share"
#: Only root can listen there: on a higher port a user could wait for others' visits.
_URL = "http://127.0.0.1:1014"
#: Who asks for a service: the users, and their servers' tokens.
_ACCESS = access_scope(_NAME)
#: What the Hub's own roles have where nobody has changed them. A role that the configuration names
#: has only what stands there.
_ROLES = {
    "user": ["self"],
    "server": ["users:activity!user", "access:servers!server"],
}
#: By default systemd signals all processes of a server at once, and kernels would be gone before
#: their server can save their variables.
_UNIT = {"KillMode": "mixed"}
#: What the page is told about its visitors; they are not asked.
_PAGE = {"oauth_client_allowed_scopes": [ADMINISTRATOR], "oauth_no_confirm": True}


def share_gpus(
    c: Any,
    administrators: Iterable[str] = (),
    groups: Iterable[str] = (),
    account: str = "{name}",
    url: str = _URL,
) -> None:
    """Have all programs of users on shares, and the page among the Hub's services.

    SystemdSpawner's units get ``KillMode=mixed`` where they have none.

    Called at the end of ``jupyterhub_config.py``: what sets roles, services or the environment of
    servers anew after it takes that away. Papermill and consoles in terminals have shares, too.

    Parameters
    ----------
    c: the Hub's configuration.
    administrators, groups: the Hub's names of users, and of groups, who see and end the kernels of
        all users.
    account: the name that the Hub's user ``{name}`` has on this machine; ``{tljh}`` where The
        Littlest JupyterHub makes the users.
    url: where the page listens. Where the Hub is not root's, name a port above 1023.
    """
    # For papermill and consoles in terminals, too.
    _set(c, "JUPYTER_DEFAULT_PROVISIONER_NAME", "gpu-share-provisioner")
    properties = c.SystemdSpawner.unit_extra_properties
    if isinstance(properties, dict):
        c.SystemdSpawner.unit_extra_properties = {**_UNIT, **properties}
    else:  # nobody has set it so far
        properties.update(_UNIT)
    command = [str(Path(sys.executable).parent / "jupyter-gpu-share"), "page", "--hub"]
    c.JupyterHub.services.append(
        {
            "name": _NAME,
            "url": url,
            "command": [*command, "--account", account],
            **_PAGE,
        }
    )
    _allow(c, ("user",), administrators, groups)


def share_gpus_of_cluster(
    c: Any,
    url: str,
    token: str,
    administrators: Iterable[str] = (),
    groups: Iterable[str] = (),
    base_url: str = "/",
) -> None:
    """Have users' servers start kernels on shares of a cluster's GPUs, by a broker that runs there.

    The broker is a service that the Hub does not start. Called at the end of
    ``jupyterhub_config.py``: what sets roles, services or the environment of servers anew after it
    takes that away. Servers whose image lacks this package go on as before: so nothing here sets
    ``JUPYTER_DEFAULT_PROVISIONER_NAME``, which would hide all of their kernels. With Zero to
    JupyterHub, ``etc/helm/zero-to-jupyterhub.yaml`` does the same.

    Parameters
    ----------
    c: the Hub's configuration.
    url: where users' servers and the Hub's proxy reach the broker, without a path:
        ``http://gpu-share-broker.jupyterhub:8000``.
    token: the service's token, which the broker has too.
    administrators, groups: the Hub's names of users, and of groups, who see and end the kernels of
        all users.
    base_url: the Hub's, as in ``c.JupyterHub.base_url``.
    """
    url = url.rstrip("/")
    broker = f"{url}{base_url.rstrip('/')}/services/{_NAME}"
    _set(c, "JUPYTER_GPU_SHARE_BROKER", broker)
    c.JupyterHub.services.append({"name": _NAME, "url": url, "api_token": token, **_PAGE})
    _allow(c, ("user", "server"), administrators, groups)


def _set(c: Any, name: str, value: str) -> None:
    """A variable for servers; also where a kind of spawner has an environment of its own, which
    counts instead of that of all spawners."""
    own = [kind for kind in c if kind.endswith("Spawner") and "environment" in c[kind]]
    for kind in {"Spawner", *own}:
        c[kind].environment.update({name: value})


def _allow(
    c: Any, roles: Iterable[str], administrators: Iterable[str], groups: Iterable[str]
) -> None:
    """Let those of the Hub's own roles ask the service, and administrators see all kernels."""
    c.JupyterHub.custom_scopes.update(
        {ADMINISTRATOR: {"description": "See and end the kernels of all users on GPU shares"}}
    )
    given = c.JupyterHub.load_roles
    for name in roles:
        usual = _ROLES[name]
        # What nobody has set so far cannot be looked through.
        known = [role for role in given if role["name"] == name] if isinstance(given, list) else []
        if known:
            known[0]["scopes"] = [*known[0].get("scopes", usual), _ACCESS]
        else:
            given.append({"name": name, "scopes": [*usual, _ACCESS]})
    given.append(
        {
            "name": "gpu-share-admin",
            "scopes": [ADMINISTRATOR, _ACCESS],
            "users": list(administrators),
            "groups": list(groups),
        }
    )
