"""What becomes of a client's message while no carriers run: one table. Pure."""

from __future__ import annotations

from enum import Enum

__all__ = ["QUIET_TARGETS", "WANTING", "HoldMode", "Kind", "Rule", "kind_of", "rule_for", "why_not"]

#: Comms that a page opens by itself when it is loaded, to learn what there is: ipywidgets does.
#: They wake nobody.
QUIET_TARGETS = frozenset({"jupyter.widget.control"})

#: Answered by any kernel that lives, on its control channel.
_CONTROL = frozenset(
    {
        "debug_request",
        "usage_request",
        "create_subshell_request",
        "delete_subshell_request",
        "list_subshell_request",
    }
)


class HoldMode(Enum):
    """What the relay does while clients do not talk to a kernel."""

    #: The kernel will be here in a moment: what it answers better waits for it.
    STARTING = "starting"
    #: It may take long: the relay answers what it can, and holds what needs the kernel.
    WAITING = "waiting"


class Kind(Enum):
    """Messages of which the relay does the same."""

    CELL = "cell"
    COMM = "comm"
    QUIET_COMM = "comm that a page opens by itself"
    KERNEL_INFO = "kernel_info"
    COMM_INFO = "comm_info"
    HISTORY = "history"
    CODE = "question about code, which may run some"
    INTERRUPT = "interrupt"
    SHUTDOWN = "shutdown"
    CONTROL = "other request on control"
    REQUEST = "other request on shell"
    UNKNOWN = "no request"


class Rule(Enum):
    """What the relay does with a message."""

    #: Keep it for the kernel.
    HOLD = "hold"
    #: Answer from memory, or with nothing.
    ANSWER = "answer"
    #: Hand it to the kernel that is paused.
    TO_KERNEL = "to the kernel"
    #: Answer with an error that says why.
    REFUSE = "refuse"
    #: Answer, and tell the owner.
    INTERRUPT = "interrupt"
    END = "end"
    #: Hand it to the kernel, and tell the owner.
    END_TOO = "to the kernel, and told"
    #: Forget it.
    DROP = "drop"


#: The cells and widgets of users: they ask for the kernel itself.
WANTING = frozenset({Kind.CELL, Kind.COMM})

_NAMED = {
    "execute_request": Kind.CELL,
    "kernel_info_request": Kind.KERNEL_INFO,
    "comm_info_request": Kind.COMM_INFO,
    "history_request": Kind.HISTORY,
    "complete_request": Kind.CODE,
    "inspect_request": Kind.CODE,
    "is_complete_request": Kind.CODE,
    "interrupt_request": Kind.INTERRUPT,
    "shutdown_request": Kind.SHUTDOWN,
    **dict.fromkeys(_CONTROL, Kind.CONTROL),
}

_COMMS = frozenset({"comm_open", "comm_msg", "comm_close"})

#: By kind: without a kernel while ``STARTING`` and ``WAITING``, then the same with a kernel that is
#: paused (for a look, and without its share).
_TABLE: dict[Kind, tuple[Rule, Rule, Rule, Rule]] = {
    Kind.CELL: (Rule.HOLD, Rule.HOLD, Rule.HOLD, Rule.HOLD),
    Kind.COMM: (Rule.HOLD, Rule.HOLD, Rule.HOLD, Rule.HOLD),
    Kind.QUIET_COMM: (Rule.HOLD, Rule.HOLD, Rule.TO_KERNEL, Rule.TO_KERNEL),
    Kind.KERNEL_INFO: (Rule.HOLD, Rule.ANSWER, Rule.ANSWER, Rule.ANSWER),
    Kind.COMM_INFO: (Rule.HOLD, Rule.ANSWER, Rule.TO_KERNEL, Rule.TO_KERNEL),
    Kind.HISTORY: (Rule.HOLD, Rule.ANSWER, Rule.ANSWER, Rule.ANSWER),
    Kind.CODE: (Rule.ANSWER, Rule.ANSWER, Rule.ANSWER, Rule.ANSWER),
    Kind.INTERRUPT: (Rule.INTERRUPT, Rule.INTERRUPT, Rule.INTERRUPT, Rule.INTERRUPT),
    Kind.SHUTDOWN: (Rule.END, Rule.END, Rule.END_TOO, Rule.END),
    Kind.CONTROL: (Rule.REFUSE, Rule.REFUSE, Rule.TO_KERNEL, Rule.TO_KERNEL),
    Kind.REQUEST: (Rule.REFUSE, Rule.REFUSE, Rule.REFUSE, Rule.REFUSE),
    Kind.UNKNOWN: (Rule.DROP, Rule.DROP, Rule.DROP, Rule.DROP),
}

_REASONS = (
    "The kernel does not run yet; try again when it does.",
    "The kernel has no GPU now and does not run; run a cell to bring it back.",
    "The kernel is paused for a moment; try again.",
    "The kernel has no GPU now; run a cell to get it back.",
)


def kind_of(msg_type: str, channel: str, *, quiet: bool = False) -> Kind:
    """What a message is; ``quiet`` says that it is of a comm that a page opens by itself."""
    if msg_type in _NAMED:
        return _NAMED[msg_type]
    if msg_type in _COMMS:
        return Kind.QUIET_COMM if quiet else Kind.COMM
    if not msg_type.endswith("_request"):
        return Kind.UNKNOWN
    return Kind.CONTROL if channel == "control" else Kind.REQUEST


def rule_for(kind: Kind, mode: HoldMode, *, live: bool) -> Rule:
    """What the relay does; ``live`` says that a kernel is connected and paused."""
    return _TABLE[kind][_column(mode, live=live)]


def why_not(mode: HoldMode, *, live: bool) -> str:
    """Why a request is refused, for the user."""
    return _REASONS[_column(mode, live=live)]


def _column(mode: HoldMode, *, live: bool) -> int:
    return 2 * live + (mode is HoldMode.WAITING)
