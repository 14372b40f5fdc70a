"""The page as HTML. Pure. Whatever a user has named is text in it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from html import escape
from typing import Any

from ..._text import one_line
from ...size import format_bytes

__all__ = ["STYLE", "Frame", "View", "document"]

#: Days of the table of GPU-hours.
_DAYS = 7
_AMOUNTS = ("held", "used", "idle", "given_back")

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif;
  background: Canvas; color: CanvasText; }
body { margin: 1rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
caption { font-weight: 600; padding: 1.5rem 0 .5rem; text-align: left; }
th, td { border-bottom: 1px solid #8888; padding: .3rem .6rem .3rem 0; text-align: left;
  vertical-align: top; }
th { white-space: nowrap; }
td.words { min-width: 12rem; }
.box { overflow-x: auto; position: relative; }
.name { max-width: 18rem; overflow-wrap: anywhere; width: max-content; }
td.number, th.number { text-align: right; white-space: nowrap; }
form, details { display: inline-block; }
button, summary { cursor: pointer; font: inherit; white-space: nowrap; }
details button { white-space: normal; }
button { background: ButtonFace; border: 1px solid #888; border-radius: .25rem; color: ButtonText;
  padding: .1rem .5rem; }
.hidden { clip-path: inset(50%); height: 1px; overflow: hidden; position: absolute; width: 1px; }
/* Its buttons are seen on a small screen, too. */
@media (max-width: 64rem) {
  .name { max-width: 10rem; }
  td.words { min-width: 9rem; }
}
[role=alert] { border-left: .3rem solid #c33; padding-left: .6rem; }
"""


@dataclass(frozen=True)
class Frame:
    """Where the page is shown.

    Attributes
    ----------
    home: path of the page; its other routes are below it.
    proof: name of the field in which a form sends the view's ``proof``.
    styles: paths of style sheets before the page's own.
    header: HTML above the page.
    """

    home: str = "/"
    proof: str = "proof"
    styles: Sequence[str] = ()
    header: str = ""


@dataclass(frozen=True)
class View:
    """What is shown.

    Attributes
    ----------
    machine, shares, usage: as the broker's routes ``machine``, ``details`` (an administrator:
        ``admin/shares``) and ``usage`` have them.
    processes: as the route ``admin/processes`` has them; empty for who is no administrator.
    now: with a time zone, in which moments are shown.
    proof: what a form has to send, so that no other page can send it.
    notice: what became of the last thing that was asked.
    """

    machine: Mapping[str, Any]
    shares: Sequence[Mapping[str, Any]]
    usage: Sequence[Mapping[str, Any]]
    now: datetime
    proof: str
    notice: str = ""
    processes: Sequence[Mapping[str, Any]] = ()
    frame: Frame = Frame()

    @property
    def of_cluster(self) -> bool:
        """Whether the GPUs are those of a cluster."""
        return self.machine.get("engine") == "kubernetes"

    @property
    def administrator(self) -> bool:
        """Whether all users are shown, with what can be done about them."""
        return bool(self.machine["you"]["administrator"])


def document(view: View) -> str:
    """The whole page."""
    title = "GPU shares of all users" if view.administrator else "Your GPU shares"
    who = f"{_text(view.machine['you']['user'])}, {view.now:%d %b %Y, %H:%M}"
    parts = [
        f"<h1>{title}</h1>",
        f'<p>{who}. <a href="{_text(view.frame.home)}">Look again</a></p>',
        f'<p role="alert">{_text(view.notice)}</p>' if view.notice else "",
        _pause(view),
        _held(view),
        _waiting(view),
        _gpus(view),
        _unshared(view),
        _hours(view),
    ]
    styles = "".join(
        f'<link rel="stylesheet" href="{_text(each)}">'
        for each in (*view.frame.styles, f"{view.frame.home}style.css")
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title>{styles}</head>\n"
        f"<body>{view.frame.header}<main>{''.join(parts)}</main></body></html>\n"
    )


def _pause(view: View) -> str:
    paused = view.machine["paused"]
    told = "<p><strong>No new shares are given out for now.</strong></p>" if paused else ""
    if not view.administrator:
        return told
    if paused:
        return told + _form(view, "resume", "Give out shares again")
    return _form(view, "pause", "Give out no new shares")


def _held(view: View) -> str:
    rows = []
    for share in view.shares:
        if share["state"] != "held":
            continue
        memory = sum(piece["memory_bytes"] for piece in share["pieces"])
        cells = [
            *_whose(view, share),
            _cell(share["size"]),
            _cell(format_bytes(memory) if memory else "-"),
            _cell(_since(share["held_since"], view.now)),
            f'<td class="words">{_text(_unused(share, view.now))}</td>',
        ]
        if view.administrator:
            name = f"{_notebook(share)} of {_user(share)}"
            cells.append(
                f"<td>{_form(view, 'release', 'Ask back', name, share)} "
                f"<details><summary>End…{_hidden(name)}</summary>"
                f"{_form(view, 'end', 'End it: its variables are lost', name, share)}"
                "</details></td>"
            )
        rows.append(cells)
    heads = [*_heads(view), "Size", "Memory", "Held since", "Unused for"]
    return _table("Held", [*heads, *(["Do"] if view.administrator else [])], rows, "Nothing.")


def _waiting(view: View) -> str:
    rows = [
        [
            _cell(str(share["queue"]["position"] or "-")),
            *_whose(view, share),
            _cell(share["size"]),
            f'<td class="words">{_text(_room(share, view.now))}</td>',
        ]
        for share in view.shares
        if share["state"] == "waiting"
    ]
    return _table("Waiting", ["Place", *_heads(view), "Size", "What for"], rows, "Nobody.")


def _unused(share: Mapping[str, Any], now: datetime) -> str:
    unused = "" if share["idle_seconds"] is None else _idle(share["idle_seconds"])
    return ". ".join(each for each in (unused, _promise(share, now)) if each) or "-"


def _promise(share: Mapping[str, Any], now: datetime) -> str:
    """Who gets an idle share, and until when its user may keep it; empty: nobody waits for it."""
    promise, keep = share["promise"], share["keep_until"]
    if promise is None:
        if share["asked_back"]:
            used = share["idle_seconds"] is None
            return f"It is asked back{', and goes once it is unused' if used else ''}."
        kept = keep is not None and datetime.fromisoformat(keep) > now
        return f"Kept until {_since(keep, now)}, used or not." if kept else ""
    waiting = [
        f"{each['user']}'s {_name(each)} ({each['size']})"
        if each["user"] is not None
        else f"another user's kernel ({each['size']})"
        for each in promise["for"]
    ]
    if not waiting:  # an administrator asks for it
        whose = "It is asked back."
    else:
        whose = f"{' and '.join(waiting)} {'waits' if len(waiting) == 1 else 'wait'} for it."
    taken = _since(promise["taken"], now)
    if datetime.fromisoformat(promise["due"]) > now:
        return f"{whose} It goes at {_since(promise['due'], now)} unless it is used."
    return f"{whose} It was due at {_since(promise['due'], now)}, and is taken at {taken}."


def _room(share: Mapping[str, Any], now: datetime) -> str:
    """What a kernel waits for, and when it may have that."""
    at = share["room_at"]
    if at is None:
        return str(share["reason"])
    room = f"Idle shares go for it at {_since(at, now)} unless they are used."
    return f"{share['reason']} {room}".strip()


def _gpus(view: View) -> str:
    if view.of_cluster:
        return _gpus_of_nodes(view)
    rows = [
        [
            _cell(gpu["model"]),
            *(_number(format_bytes(gpu[n])) for n in ("memory_bytes", "held_bytes", "other_bytes")),
            _number(str(gpu["kernels"])),
        ]
        for gpu in view.machine["gpus"]
    ]
    heads = ["GPU", "#Memory", "#Held", "#Used without a share", "#Kernels"]
    return _table("GPUs", heads, rows, "There is no GPU.")


def _gpus_of_nodes(view: View) -> str:
    """Which processes use a GPU without a share is not known in a cluster."""
    rows = [
        [
            _named(gpu["node"] or "-"),
            _named(gpu["model"]),
            _number(format_bytes(gpu["memory_bytes"])),
            _number(format_bytes(max(0, gpu["memory_bytes"] - gpu["free_bytes"]))),
            _number(str(gpu["kernels"])),
        ]
        for gpu in view.machine["gpus"]
    ]
    heads = ["Node", "GPU", "#Memory", "#Held", "#Kernels"]
    return _table("GPUs", heads, rows, "There is no GPU.")


def _unshared(view: View) -> str:
    if not view.administrator or view.of_cluster:
        return ""
    rows = []
    for process in view.processes:
        used = [amount for amount in process["used_bytes"].values() if amount is not None]
        rows.append(
            [
                _named(process["user"]),
                _number(str(process["pid"])),
                _named(process["command"]),
                _number(format_bytes(sum(used)) if used else "-"),
                _cell(_since(process["since"], view.now)),
            ]
        )
    heads = ["User", "#Process", "Command", "#Memory", "Seen since"]
    return _table("Processes without a share", heads, rows, "None.")


def _hours(view: View) -> str:
    first = view.now.astimezone(timezone.utc).date() - timedelta(days=_DAYS - 1)
    sums: dict[tuple[str, str], list[float]] = {}
    for row in view.usage:
        if date.fromisoformat(row["day"]) >= first:
            known = sums.setdefault((row["of"], row["name"]), [0.0] * len(_AMOUNTS))
            for n, key in enumerate(_AMOUNTS):
                known[n] += row[key] / 3600
    order = sorted(sums.items(), key=lambda item: (item[0][0] != "user", -item[1][0], item[0][1]))
    rows = [
        [
            _named(f"{kind} {name}"),
            *(_number(f"{hours:.2f}") for hours in figures),
        ]
        for (kind, name), figures in order
    ]
    title = f"GPU-hours of the last {_DAYS} days, in UTC"
    heads = ["Of", "#Held", "#Used", "#Idle", "#Given back"]
    return _table(title, heads, rows, "Nothing was held.")


# -- parts ---------------------------------------------------------------------------------------


def _table(title: str, heads: Iterable[str], rows: Sequence[Sequence[str]], none: str) -> str:
    if not rows:
        return f"<h2>{_text(title)}</h2><p>{_text(none)}</p>"
    head = "".join(
        f'<th scope="col" class="number">{_text(each[1:])}</th>'
        if each.startswith("#")
        else f'<th scope="col">{_text(each)}</th>'
        for each in heads
    )
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return (
        # What does not fit is scrolled in its own box, with the keyboard too.
        f'<div class="box" role="region" tabindex="0" aria-label="{_text(title)}">'
        f"<table><caption>{_text(title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _form(view: View, do: str, label: str, name: str = "", share: Any = None) -> str:
    fields = {view.frame.proof: view.proof, "do": do}
    if share is not None:
        info = share["info"]
        # A machine has numbers of its users, a Hub names of its users and of their servers.
        whose = ("uid",) if "uid" in info else ("user", "server")
        fields |= {**{n: str(info[n]) for n in whose}, "kernel": share["kernel_id"]}
    hidden = "".join(
        f'<input type="hidden" name="{_text(key)}" value="{_text(value)}">'
        for key, value in fields.items()
    )
    return (
        f'<form method="post" action="{_text(view.frame.home)}do">{hidden}'
        f"<button>{_text(label)}{_hidden(name)}</button></form>"
    )


def _hidden(name: str) -> str:
    """For who hears the page: which of the buttons it is."""
    return f' <span class="hidden">{_text(name)}</span>' if name else ""


def _heads(view: View) -> list[str]:
    return ["User", "Notebook"] if view.administrator else ["Notebook"]


def _whose(view: View, share: Mapping[str, Any]) -> list[str]:
    user = [_named(_user(share))] if view.administrator else []
    return [*user, _named(_notebook(share))]


def _user(share: Mapping[str, Any]) -> str:
    """A user, and which of their servers it is at a Hub, as its addresses have both."""
    server = share["info"].get("server")
    return f"{share['info'].get('user', '-')}{f'/{server}' if server else ''}"


def _notebook(share: Mapping[str, Any]) -> str:
    return _name({**share, "path": share["info"].get("path")})


def _name(kernel: Mapping[str, Any]) -> str:
    return str(kernel["path"] or kernel["kernel_id"][:8])


def _since(moment: str | None, now: datetime) -> str:
    if moment is None:
        return "-"
    local = datetime.fromisoformat(moment).astimezone(now.tzinfo)
    return f"{local:%H:%M}" if local.date() == now.date() else f"{local:%d %b %H:%M}"


def _idle(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{int(seconds)} s" if not minutes else f"{minutes} min"


def _cell(text: str) -> str:
    return f"<td>{_text(text)}</td>"


def _named(text: str) -> str:
    """Somebody's name for something: of any length, and in one piece where it is not too long."""
    return f'<td><div class="name">{_text(text).replace("/", "/<wbr>")}</div></td>'


def _number(text: str) -> str:
    return f'<td class="number">{_text(text)}</td>'


def _text(text: str) -> str:
    return escape(one_line(str(text)), quote=True)
