"""The words in which the states of a kernel are told: phases, events, works, orders, facts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

__all__ = ["Event", "Facts", "ImpossibleError", "Order", "Phase", "Then", "Work"]


class Phase(Enum):
    """Where a kernel stands. What users see is made of it by the projection."""

    OFF = auto()  #: no process, and nothing on its way; a share may be kept for a restart
    WAITING = auto()  #: asks for a share; none is held
    STARTING = auto()  #: a share is held, a process is on its way
    RESUMING = auto()  #: a share is held, the process moves back onto it
    RUNNING = auto()  #: a share is held, the process answers
    RELEASING = auto()  #: its state is being kept, or the share given back
    RELEASED = auto()  #: no share; a process without one, or saved variables, or neither
    RESIZING = auto()  #: the share of a process that answers is being changed
    SETTLING = auto()  #: no share; a wish is being taken back, or the next size prepared
    ENDING = auto()  #: the process is being ended
    CLOSED = auto()  #: for good


class Event(Enum):
    """What happens to a kernel."""

    # Wishes.
    LAUNCH = auto()  #: Jupyter starts the kernel, or starts it again
    ADOPT = auto()  #: an earlier server has saved its variables
    CELL = auto()  #: something that needs the kernel waits at the relay
    WAKE = auto()  #: somebody wants its share back
    RELEASE = auto()  #: a person gives the share back
    UNUSED = auto()  #: the idle rule gives the share back
    RESIZE = auto()  #: another size is wanted
    LOOK = auto()  #: somebody asks what a release would keep
    INTERRUPT = auto()
    TERMINATE = auto()  #: SIGTERM
    KILL = auto()  #: SIGKILL
    END = auto()  #: the kernel is asked to end for good
    RESTART = auto()  #: the kernel is asked to end, to be started again
    EXPECT = auto()  #: it will be started again
    CLOSE = auto()  #: nobody wants it any more
    PARK = auto()  #: the server stops: what was kept is kept for the next one
    # What the world says.
    EVICTED = auto()  #: what it runs in is taken away, and leaves it time to save its variables
    DIED = auto()  #: the process that answered has ended
    EXPIRED = auto()  #: nobody has started it again
    # What works say on their way.
    QUEUED = auto()  #: there is no room now
    GRANTED = auto()  #: the share is held
    LEAVES = auto()  #: the process is taken off its share, to change its size or as it is evicted
    COMMITS = auto()  #: a release can only go on from here
    ENDS = auto()  #: a release ends the process, whose variables are saved
    UNSAVED = auto()  #: what others end could not be saved, and is about to end in its own way
    # How works end.
    ANSWERED = auto()  #: the kernel has its share and answers
    LEFT = auto()  #: the share is back; the process lives on
    SAVED = auto()  #: the share is back; the process has ended
    CHANGED = auto()  #: the share has the other size
    LOOKED = auto()  #: the kernel was asked
    DONE = auto()  #: it is undone, prepared, or ended
    BUSY = auto()  #: a cell runs; all is as it was before
    FAILED = auto()  #: it could not be done, or was cut short; all is as it was before


class Work(Enum):
    """What is done for a kernel, one at a time."""

    START = auto()
    WAKE = auto()
    RELEASE = auto()
    RESIZE = auto()
    LOOK = auto()
    RESCUE = auto()  #: save the variables of a process that others end
    UNDO = auto()  #: wait for the end of what was cut short
    PREPARE = auto()  #: have the next share be of another size
    STOP = auto()  #: end the process
    PARK = auto()  #: save what a process has with it that lives on without its share, and end it
    FREE = auto()  #: give back what was kept for a restart


class Order(Enum):
    """What the controller does after a step, in this order."""

    BEGIN = auto()  #: the work that the facts name; after the end of the one under way
    CANCEL = auto()  #: cut the work under way short
    KILL_PROCESS = auto()  #: at once, whatever is under way
    INTERRUPT_PROCESS = auto()
    #: The same, where a cell runs that was sent before the user's interrupt came.
    INTERRUPT_EARLIER = auto()
    TERMINATE_PROCESS = auto()
    EXIT = auto()  #: Jupyter may see that the kernel has ended
    ANSWER_CELLS = auto()  #: nobody will run what waits
    GRACE = auto()  #: wait a while for a restart
    FORGET = auto()  #: the allocation is over
    ACCEPT = auto()  #: the wish is fulfilled
    ATTEND = auto()  #: whoever wished waits for the work under way
    DEFER = auto()  #: look at the wish again when the work under way is over
    REFUSE = auto()  #: the wish cannot be fulfilled now
    CLOSE_RELAY = auto()


class Then(Enum):
    """What follows when the work under way is over."""

    NOTHING = auto()
    WAKE = auto()  #: the share is asked for (again)
    CLOSE = auto()


@dataclass(frozen=True)
class Facts:
    """All that decides about a kernel.

    Attributes
    ----------
    work: ordered last, and not over.
    process: one may live; while ``RELEASED``, without its share.
    cells: something that needs the kernel waits at the relay.
    queued: there was no room when the share was asked for.
    again: variables are to come back with the share: it was had before.
    then: what follows on the work.
    asked: ``END`` or ``RESTART``, where the process was asked to end.
    unused: the release under way is the idle rule's, and can be taken back still.
    interrupted: somebody interrupted while a work had the kernel paused.
    expected: somebody may start it again; its share is kept.
    """

    phase: Phase = Phase.OFF
    work: Work | None = None
    process: bool = False
    cells: bool = False
    queued: bool = False
    again: bool = False
    then: Then = Then.NOTHING
    asked: Event | None = None
    unused: bool = False
    interrupted: bool = False
    expected: bool = False


class ImpossibleError(RuntimeError):
    """An event that cannot be in this phase.

    Attributes
    ----------
    facts, event: the pair.
    """

    def __init__(self, facts: Facts, event: Event) -> None:
        super().__init__(f"{event.name} cannot be while {facts.phase.name} ({facts})")
        self.facts = facts
        self.event = event
