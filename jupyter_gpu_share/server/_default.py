"""Which kernels start on a share: those of every kernelspec that names no provisioner.

jupyter_client starts a kernel by the provisioner that its kernelspec names, else by the default
one of the process. That one is ours while a server runs that has GPUs to share, unless somebody
has chosen another.
"""

from __future__ import annotations

import os
from typing import Any

from jupyter_client.provisioning.factory import KernelProvisionerFactory

from ..broker.client import find_broker
from ..engines import usual_engine
from ..engines._presence import SIMULATE, driver_is_installed
from ..errors import EngineError

__all__ = [
    "DEFAULT_PROVISIONER",
    "PROVISIONER",
    "DefaultProvisioner",
    "chosen_elsewhere",
    "has_gpus",
]

PROVISIONER = "gpu-share-provisioner"
#: The variable that names a default provisioner to servers and to all other programs.
DEFAULT_PROVISIONER = KernelProvisionerFactory.default_provisioner_name_env


def chosen_elsewhere(config: Any) -> str | None:
    """Who has chosen a default provisioner, in words; None: nobody has.

    Parameters
    ----------
    config: of the server, as traitlets has it.
    """
    if os.environ.get(DEFAULT_PROVISIONER):
        return f"{DEFAULT_PROVISIONER}={os.environ[DEFAULT_PROVISIONER]}"
    section = config.get("KernelProvisionerFactory", {})
    if name := section.get("default_provisioner_name"):
        return f"c.KernelProvisionerFactory.default_provisioner_name = {name!r}"
    return None


def has_gpus(config: Any) -> bool | None:
    """Whether there are GPUs to share; None: NVIDIA's driver is there, and has to be asked.

    Parameters
    ----------
    config: of the server.
    """
    if (config.get("GpuShareProvisioner", {}).get("engine") or usual_engine()) != "local":
        return True
    simulated = config.get("LocalEngine", {}).get("simulate") or os.environ.get(SIMULATE)
    if simulated or _has_broker():
        return True
    return None if driver_is_installed() else False


def _has_broker() -> bool:
    """Whether a broker shares out this machine's GPUs, be it away now."""
    try:
        return find_broker() is not None
    except EngineError:  # it is named, and whoever starts a kernel is told what is wrong
        return True


class DefaultProvisioner:
    """The default provisioner of this process, which a server makes ours for its time.

    Parameters
    ----------
    parent: the server; its configuration counts.
    """

    def __init__(self, parent: Any) -> None:
        self._factory = KernelProvisionerFactory.instance(parent=parent)
        self._before: str | None = None

    def take(self) -> None:
        """From now on kernels of kernelspecs that name no provisioner start on a share."""
        if self._before is None:
            self._before = self._factory.default_provisioner_name
            self._factory.default_provisioner_name = PROVISIONER

    def give_back(self) -> None:
        """From now on they start as without this package. Nothing where that is so."""
        if self._before is not None:
            self._factory.default_provisioner_name, self._before = self._before, None

    def starts_on_share(self, spec: Any) -> bool:
        """Whether a kernel of this kernelspec starts on a share now.

        Parameters
        ----------
        spec: as ``api/kernelspecs`` tells it, or jupyter_client's own.
        """
        metadata = spec.get("metadata", {}) if isinstance(spec, dict) else spec.metadata
        stanza = metadata.get("kernel_provisioner") or {}
        name = stanza.get("provisioner_name") or self._factory.default_provisioner_name
        return bool(name == PROVISIONER)
