"""Tells the account who holds how much, each time that claims have changed.

For the one thread that the ledger belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from time import monotonic

from ..engines._processes import Holder
from ..engines.local._contents import Claim
from ..engines.local._gpu import Gpu
from ..engines.local._ledger import Ledger
from .books import Books
from .demand import demand
from .given_back import Held
from .identity import Accounts
from .idle import IdleShares
from .names import uid_of_claim

__all__ = ["Counting"]

#: Seconds that a look at processes without a share counts; a driver may fall silent after it.
_CHARGE_LIFETIME = 30.0


class Counting:
    """What each claim stands for in the account.

    Parameters
    ----------
    idle: says which shares nobody uses.
    clock: the time now, aware.
    """

    def __init__(
        self,
        books: Books,
        accounts: Accounts,
        idle: IdleShares,
        clock: Callable[[], datetime],
    ) -> None:
        self._books = books
        self._accounts = accounts
        self._idle = idle
        self._clock = clock
        self._counted: dict[str, tuple[Claim, Held]] = {}
        #: What processes without a share are charged for, and until when that counts.
        self._charged: tuple[Mapping[str, Held], float] = {}, 0.0
        #: Servers of kernels whose share is given back.
        self.servers: frozenset[Holder] = frozenset()

    def held(self, name: str) -> Held | None:
        """What the kernel of this name held when this last counted."""
        _, held = self._counted.get(name, (None, None))
        return held

    def charge(self, charged: Mapping[str, Held]) -> None:
        """What is used without a share, by names that no kernel has; for some seconds."""
        self._charged = charged, monotonic() + _CHARGE_LIFETIME

    def count(self, ledger: Ledger, claims: Sequence[Claim]) -> None:
        """Tell the account what is held now. A claim that has not changed is not reckoned again."""
        idle = self._idle.since(self._clock())
        before, self._counted = self._counted, {}
        gpus: dict[str, Gpu] | None = None
        for claim in claims:
            if not claim.held or claim.size.is_none:
                continue
            name = claim.kernel_id
            known, held = before.get(name, (None, None))
            changed = known is not claim and known != claim
            if held is None or changed or held.idle != (name in idle):
                gpus = {gpu.uuid: gpu for gpu in ledger.gpus()} if gpus is None else gpus
                held = self._held(claim, gpus, idle=name in idle)
            self._counted[name] = claim, held
        waiting = {claim.kernel_id for claim in claims if not claim.held}
        own = {name: held for name, (_, held) in self._counted.items()}
        charged, until = self._charged
        self._books.see({**charged, **own} if monotonic() < until else own, waiting)
        self.servers = self._books.given_back.servers

    def _held(self, claim: Claim, gpus: Mapping[str, Gpu], *, idle: bool) -> Held:
        owner = self._accounts.of(uid_of_claim(claim))
        own = [gpus[piece.uuid] for piece in claim.pieces if piece.uuid in gpus]
        amount, _ = demand(claim.size, own or list(gpus.values()))
        return Held(owner.user, owner.groups, amount, idle)
