"""The Hub, as it tells its services about itself and about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import EngineError
from ._visitors import FRESH

if TYPE_CHECKING:
    from jupyterhub.services.auth import HubOAuth

__all__ = ["Hub", "access_scope", "told"]


def access_scope(service: str) -> str:
    """The scope without which nobody may ask the service."""
    return f"access:services!service={service}"


def told(environ: Mapping[str, str], *parts: str, missing: str) -> list[str]:
    """What the Hub tells a service in its environment.

    Parameters
    ----------
    parts: names of variables, without ``JUPYTERHUB_``.
    missing: what is said where one is not set; ``{}`` stands for its name.

    Raises
    ------
    EngineError: one is not set.
    """
    found = {f"JUPYTERHUB_{part}": environ.get(f"JUPYTERHUB_{part}", "") for part in parts}
    for name, value in found.items():
        if not value:
            raise EngineError(missing.format(name))
    return list(found.values())


@dataclass(frozen=True)
class Hub:
    """What a service knows of its Hub.

    Attributes
    ----------
    name: the service's at the Hub.
    prefix, base: paths of the service and of the Hub's pages; both end with a slash.
    api: URL of the Hub's API.
    token: the service's own.
    """

    name: str
    prefix: str
    base: str
    api: str
    token: str

    @classmethod
    def of(cls, environ: Mapping[str, str], missing: str) -> Hub:
        """From the environment of a service.

        Parameters
        ----------
        missing: as :func:`told` has it.

        Raises
        ------
        EngineError: something is not told. Without its own name every token of the Hub would do.
        """
        name, token, api = told(environ, "SERVICE_NAME", "API_TOKEN", "API_URL", missing=missing)
        base = environ.get("JUPYTERHUB_BASE_URL") or "/"
        prefix = environ.get("JUPYTERHUB_SERVICE_PREFIX") or f"{base.rstrip('/')}/services/{name}/"
        return cls(name, _path(prefix), f"{_path(base)}hub/", api, token)

    def login(self) -> HubOAuth:
        """The Hub's login for the service's pages.

        Raises
        ------
        ImportError: the package jupyterhub is missing.
        """
        from jupyterhub.services.auth import HubOAuth

        return HubOAuth(
            access_scopes={access_scope(self.name)},
            api_token=self.token,
            api_url=self.api,
            base_url=self.prefix,
            cache_max_age=FRESH,
            hub_prefix=self.base,
            oauth_client_id=f"service-{self.name}",
        )

    def __repr__(self) -> str:
        """Without the token, as logs may show it."""
        return f"Hub({self.name} at {self.prefix}, {self.api})"


def _path(text: str) -> str:
    """A path with a slash at both ends."""
    inner = text.strip("/")
    return f"/{inner}/" if inner else "/"
