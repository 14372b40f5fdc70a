"""The plugin of The Littlest JupyterHub, called as TLJH calls it."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pluggy
import pytest
from traitlets.config import Config

hookspec = pluggy.HookspecMarker("tljh")


class Hooks:
    """Those of TLJH's ``tljh/hooks.py`` that the plugin has, with their arguments."""

    @hookspec
    def tljh_extra_user_pip_packages(self) -> None: ...

    @hookspec
    def tljh_custom_jupyterhub_config(self, c: Any) -> None: ...


@pytest.fixture
def plugins() -> pluggy.PluginManager:
    """With what the entry point names."""
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    found = re.search(r'entry-points\.tljh\]\n\S+ = "([\w.]+)"', project)
    assert found is not None
    manager = pluggy.PluginManager("tljh")
    manager.add_hookspecs(Hooks)
    manager.register(import_module(found.group(1)))
    manager.check_pending()
    return manager


def test_users_have_the_package(plugins: pluggy.PluginManager) -> None:
    assert plugins.hook.tljh_extra_user_pip_packages() == [["jupyter-gpu-share"]]


@pytest.mark.parametrize("before", [None, {"OTHER": "1"}])
def test_all_programs_of_users_have_shares(
    plugins: pluggy.PluginManager, before: dict[str, str] | None
) -> None:
    c = Config()
    if before is not None:
        c.Spawner.environment = dict(before)
    plugins.hook.tljh_custom_jupyterhub_config(c=c)
    environment = c.Spawner.environment
    found = environment if before is not None else environment.get_value({})
    ours = {"JUPYTER_DEFAULT_PROVISIONER_NAME": "gpu-share-provisioner"}
    assert found == {**(before or {}), **ours}


@pytest.mark.parametrize("names", [None, {"cat", "ann"}])
def test_the_hub_has_the_page(plugins: pluggy.PluginManager, names: set[str] | None) -> None:
    """TLJH's administrators are the page's."""
    c = Config()
    if names is not None:
        c.Authenticator.admin_users = names
    plugins.hook.tljh_custom_jupyterhub_config(c=c)
    (service,) = c.JupyterHub.services.get_value([])
    assert service["command"][-2:] == ["--account", "{tljh}"]
    *_, role = c.JupyterHub.load_roles.get_value([])
    assert role["users"] == sorted(names or [])
