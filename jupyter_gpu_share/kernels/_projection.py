"""What users see of a kernel, and what they are told: made of its facts. Pure."""

from __future__ import annotations

from ..allocations import Allocation, State
from ..engines.base import Exit
from ..relay import HoldMode
from ..sentences import paragraph, say
from ._details import Details
from .facts import Event, Facts, Phase, Then, Work

__all__ = ["allocation", "hold", "reason", "refusal", "state", "words"]


_STATES = {
    Phase.STARTING: State.STARTING,
    Phase.RESUMING: State.STARTING,
    Phase.RELEASING: State.RELEASING,
    Phase.RESIZING: State.ACTIVE,
    Phase.RELEASED: State.RELEASED,
    Phase.CLOSED: State.ENDED,
}


def state(facts: Facts, details: Details) -> State:
    """The state of a kernel, as users know it."""
    if facts.phase is Phase.RUNNING:
        return details.idle
    if facts.phase is Phase.WAITING:
        if details.share is not None:
            return State.STARTING
        return State.WAKING if facts.again else State.QUEUED
    if facts.phase is Phase.SETTLING:
        if facts.cells or facts.then is Then.WAKE:
            return State.WAKING if facts.again else State.QUEUED
        return State.RELEASED
    if facts.phase in (Phase.OFF, Phase.ENDING):
        over = facts.phase is Phase.OFF and not facts.expected
        if over or facts.then is Then.CLOSE or facts.asked is Event.END:
            return State.ENDED
        return State.STARTING if facts.asked is Event.RESTART else State.FAILED
    return _STATES[facts.phase]


def allocation(kernel_id: str, engine: str, facts: Facts, details: Details) -> Allocation:
    """The kernel's allocation. There must have been a request."""
    request = details.request
    assert request is not None
    runs = facts.phase in (Phase.RUNNING, Phase.RESIZING)
    shown = state(facts, details)
    holds = shown is not State.ENDED and facts.phase not in (Phase.RELEASED, Phase.SETTLING)
    waits = facts.phase is Phase.WAITING
    return Allocation(
        kernel_id=kernel_id,
        kernel_name=request.kernel_name,
        size=str(request.size),
        state=shown,
        path=details.path,
        user=request.user,
        reason=details.progress or _told(details),
        share=details.share if holds else None,
        used_bytes=details.used_bytes if runs else None,
        utilization=details.use.utilization if runs else None,
        idle_since=details.idle_since if runs else None,
        keep_until=details.keep_until,
        next=details.next,
        queue=details.queue if waits else None,
        engine=engine,
        backend=details.backend,
        style=details.style,
        kept=details.kept,
    )


def _told(details: Details) -> str:
    return paragraph(say("taken-for-others"), details.reason) if details.taken else details.reason


def hold(facts: Facts, details: Details) -> tuple[HoldMode, str]:
    """How the relay behaves while it does not carry, and what waiting cells show."""
    phase = facts.phase
    if phase is Phase.WAITING and details.queue is not None:
        return HoldMode.WAITING, details.notice
    if phase in (Phase.RELEASING, Phase.RELEASED, Phase.SETTLING):
        return HoldMode.WAITING, ""
    return HoldMode.STARTING, details.notice if phase is Phase.STARTING else ""


def words(
    event: Event, facts: Facts, error: BaseException | None, died: Exit | None
) -> tuple[str, str]:
    """With which error cells are answered that nobody runs: its name, and a line."""
    if event in (Event.INTERRUPT, Event.RELEASE):
        if facts.phase is Phase.SETTLING:
            why = (
                "Waiting was interrupted."
                if event is Event.INTERRUPT
                else "The place in the queue was given up."
            )
            return "KeyboardInterrupt", f"{why} Run the cell again to ask for the GPU."
        return "KeyboardInterrupt", "The cell was interrupted before it ran."
    if error is not None and event is Event.FAILED:
        return type(error).__name__, str(error)
    if event in (Event.END, Event.RESTART):
        return "KernelShutdown", "The kernel was shut down while it waited for a GPU."
    if event in (Event.CLOSE, Event.PARK) or facts.phase is Phase.CLOSED:
        return "KernelShutdown", "The kernel was shut down."
    if event is Event.DIED and died is not None:
        return "DeadKernelError", f"{died.reason} The cell did not run."
    return "DeadKernelError", "The kernel has ended; restart it, then run the cell again."


def refusal(event: Event, facts: Facts) -> str:
    """Why a wish cannot be fulfilled now."""
    phase = facts.phase
    if phase in (Phase.OFF, Phase.ENDING, Phase.CLOSED):
        return say("ended-restart")
    if event is Event.RESIZE:
        return say("share-just-came")
    if event is Event.LOOK:
        return say("nothing-to-ask")
    if phase in (Phase.WAITING, Phase.STARTING, Phase.RESUMING):
        return say("share-just-came-goes-on")
    return say("nothing-to-give-back")


def reason(event: Event, before: Facts, facts: Facts, details: Details) -> str | None:
    """What is told of the kernel after an event; None: what was told before."""
    phase = facts.phase
    if facts.work is Work.RESCUE:
        return paragraph(details.removed, details.unsaved or say("variables-are-saved"))
    if before.work is Work.RESCUE and (told := _rescued(event, phase, details)):
        return told
    if phase is Phase.SETTLING and facts.work is Work.UNDO:
        why = {
            Event.INTERRUPT: say("waiting-interrupted"),
            Event.RELEASE: say("place-given-up"),
        }.get(event)
        return paragraph(why, say("cell-asks-again")) if why else None
    if phase is Phase.RELEASED:
        if event is Event.LEFT:
            return say("kept-until-next-cell")
        if event is Event.SAVED and details.kept.how == "snapshot":
            return say("saved-until-next-cell")
        if event is Event.SAVED:
            return say("next-cell-starts-anew")
        if event is Event.ADOPT:
            return say("server-started-again")
        return None
    if phase is Phase.WAITING and before.phase is not Phase.WAITING:
        if event is Event.CELL:
            return say("cell-was-run")
        return ""
    if phase in (Phase.OFF, Phase.ENDING):
        if facts.then is Then.CLOSE:
            return say("has-ended")
        if facts.asked is Event.END:
            return say("was-shut-down")
        if facts.asked is Event.RESTART:
            return say("restarts")
        if event is Event.DIED and details.exit is not None:
            return paragraph(details.exit.reason, details.unsaved)
        if event is Event.EXPIRED:
            return say("has-ended")
        if event is Event.KILL:
            return say("was-ended")
        return None
    if phase is Phase.CLOSED:
        return say("has-ended")
    if phase in (Phase.RUNNING, Phase.RELEASING) and before.phase is not phase:
        return ""
    return None


def _rescued(event: Event, phase: Phase, details: Details) -> str:
    """What is told when the variables of a kernel were to be saved that others end."""
    if event is Event.SAVED and phase is Phase.RELEASED:
        lost = details.kept.lost
        back = say("variables-come-back")
        return paragraph(details.removed, back, say("variables-lost", lost=lost) if lost else "")
    return ""
