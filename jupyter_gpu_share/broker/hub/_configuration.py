"""What the Hub's configuration needs for shares and for the page. Loaded by the Hub."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["ADMINISTRATOR", "share_gpus"]

#: The scope of who sees and ends the kernels of all users.
ADMINISTRATOR = "custom:gpu-share:admin"
_NAME = "gpu-share"
#: Only root can listen there: on a higher port a user could wait for others' visits.
_URL = "http://127.0.0.1:1014"
#: What the Hub's role ``user`` has where nobody has changed it.
_USER = {"name": "user", "scopes": ["self"]}
#: By default systemd signals all processes of a server at once, and kernels would be gone before
#: their server can save their variables.
_UNIT = {"KillMode": "mixed"}


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
    c.Spawner.environment.update({"JUPYTER_DEFAULT_PROVISIONER_NAME": "gpu-share-provisioner"})
    properties = c.SystemdSpawner.unit_extra_properties
    if isinstance(properties, dict):
        c.SystemdSpawner.unit_extra_properties = {**_UNIT, **properties}
    else:  # nobody has set it so far
        properties.update(_UNIT)
    access = f"access:services!service={_NAME}"
    command = [str(Path(sys.executable).parent / "jupyter-gpu-share"), "page", "--hub"]
    c.JupyterHub.services.append(
        {
            "name": _NAME,
            "url": url,
            "command": [*command, "--account", account],
            # What the page is told about its visitors; they are not asked.
            "oauth_client_allowed_scopes": [ADMINISTRATOR],
            "oauth_no_confirm": True,
        }
    )
    c.JupyterHub.custom_scopes.update(
        {ADMINISTRATOR: {"description": "See and end the kernels of all users on GPU shares"}}
    )
    roles = c.JupyterHub.load_roles
    known = [role for role in roles if role["name"] == "user"] if isinstance(roles, list) else []
    if known:
        known[0]["scopes"] = [*known[0].get("scopes", _USER["scopes"]), access]
    else:
        roles.append({**_USER, "scopes": [*_USER["scopes"], access]})
    roles.append(
        {
            "name": "gpu-share-admin",
            "scopes": [ADMINISTRATOR, access],
            "users": list(administrators),
            "groups": list(groups),
        }
    )
