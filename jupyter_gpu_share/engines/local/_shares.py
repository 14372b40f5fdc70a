"""Who keeps the shares: the ledger of a user's own servers, or the broker of the machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from ...size import Size
from .._processes import Holder
from ..idle_shares import AskedBack, IdleShare
from ..user_limits import UserLimit
from ._contents import Claim, Holding, LedgerSnapshot
from ._gpu import Gpu

__all__ = ["AtLedger", "Shares"]

T = TypeVar("T")


class Shares(Protocol):
    """What the engine asks of either. See :class:`Ledger` for what each method does.

    Raises
    ------
    EngineError: from every method; a :class:`LedgerError` where another try may help.
    """

    @property
    def counts_others(self) -> bool:
        """Whether the engine has to say what is used without a share."""

    def close(self) -> None: ...
    def set_gpus(self, gpus: Sequence[Gpu]) -> None: ...
    def set_others(self, others: Mapping[str, int]) -> None: ...
    def holdings(self) -> dict[str, Holding]: ...
    def user_limits(self) -> Sequence[UserLimit]: ...
    def claim(
        self,
        kernel_id: str,
        size: Size,
        holder: Holder,
        info: Mapping[str, Any],
        *,
        token: str = "",
        only: Collection[str] = (),
    ) -> Claim: ...
    def turns(self, kernel_ids: Collection[str]) -> dict[str, Claim]: ...
    def fits_each(self, kernel_id: str | None, sizes: Sequence[Size]) -> list[str | None]: ...
    def change(
        self,
        kernel_id: str,
        size: Size,
        info: Mapping[str, Any] | None = None,
        *,
        dry: bool = False,
    ) -> Claim | None: ...
    def record_kernel(self, kernel_id: str, process: Holder) -> None: ...
    def set_info(self, kernel_id: str, info: Mapping[str, Any]) -> None: ...
    def release(self, kernel_id: str) -> bool: ...
    def give_back(self, kernel_id: str) -> bool: ...
    def claims(self) -> list[Claim]: ...
    def living(self) -> list[Claim]: ...
    def snapshot(self) -> LedgerSnapshot | None: ...
    def wanted(self, idle: Mapping[str, IdleShare]) -> Mapping[str, AskedBack] | None: ...
    def has_dead(self) -> bool: ...
    def follow(self) -> None: ...
    def changed(self) -> bool: ...


class AtLedger(Protocol):
    """Does work with the shares in the one thread that is theirs."""

    def __call__(self, work: Callable[[Shares], T]) -> Awaitable[T]: ...
