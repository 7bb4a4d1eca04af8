"""The picture of a plan: its steps from top to bottom, and beside them who lives where in the arena. Floor 4."""

from __future__ import annotations

import contextlib
import os
import secrets
from html import escape
from typing import Any

from tensorlite.program.plan import Plan, _bytes, _short, kernel_of
from tensorlite.program.record import ARG, BUFFER, CONST, SETTING, STATE, Part, Step

ROW, HEAD, FOOT = 30, 92, 34  # heights of a step, of what is above the first and below the last
LEFT, BOX, TEXT, LANES, LIVE = 16, 250, 330, 640, 90  # the margin, and the widths of the columns
GAP = 16
MEMORY = LEFT + BOX + GAP + TEXT + GAP  # where the arena begins
WIDTH = MEMORY + LANES + GAP + LIVE + LEFT

KERNELS = {"native": ("#dcebdc", "#4c8a57"), "plain": ("#f6e7cf", "#b07b2a"), "copy": ("#e4e4ea", "#77778a")}
LIVES = ("#7fa8d9", "#e0a489", "#93c2a0", "#c7a3d4", "#d8c37a", "#8fc4c9", "#dba0b4", "#a9b0bd")  # taken in turn
LASTING = "#c9ced6"
STYLE = (
    "text{font-family:DejaVu Sans,Verdana,Helvetica,Arial,sans-serif;font-size:10px;fill:#222}"
    ".op{font-size:12px;font-weight:bold}.small{font-size:9px;fill:#666}.title{font-size:15px;font-weight:bold}"
)


def draw(plan: Plan, path: Any) -> None:
    """Write the plan as an SVG file, which is whole or not there at all.

    A row is a step: op, kernel, module and bytes in a box; what it reads and writes; and the arena as it is then. There
    a buffer is a block: as wide as it is large, at its place, as long as it lives; darker where it is written, with a
    line where it is read. The column at the right says how much of the arena is alive.
    """
    target = os.path.realpath(os.fspath(path))
    temporary = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(picture(plan))
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def picture(plan: Plan) -> str:
    """The text of the SVG file."""
    height = HEAD + ROW * max(len(plan.steps), 1) + FOOT
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        f"<title>{_plain(plan.name)}</title><style>{STYLE}</style>",
        _rect(0, 0, WIDTH, height, "#ffffff"),
        *_head(plan),
        *(line for k, step in enumerate(plan.steps) for line in _step(plan, k, step)),
        *_arena(plan),
        *_live(plan),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


# ---- what surrounds it
def _head(plan: Plan) -> list[str]:
    what = f"{len(plan.steps)} steps, an arena of {_bytes(plan.arena_bytes)}"
    if plan.buffer_bytes != plan.arena_bytes:
        what += f" for buffers of {_bytes(plan.buffer_bytes)}"
    if plan.applied:
        what += "; passes: " + ", ".join(plan.applied)
    lines = [_text(LEFT, 26, plan.name, "title"), _text(LEFT, 46, _short(what, 150))]
    x = LEFT
    for name, (fill, edge) in KERNELS.items():
        count = sum(kernel_of(step) == name for step in plan.steps)
        lines += [_rect(x, 58, 12, 12, fill, edge), _text(x + 17, 68, f"{name} {count}", "small")]
        x += 80
    lines.append(_text(LEFT + BOX + GAP, HEAD - 10, "reads, and writes", "small"))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = MEMORY + round(share * LANES)
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        lines.append(_text(x, HEAD - 10, _bytes(share * plan.arena_bytes), "small", anchor))
        lines.append(_line(x, HEAD - 5, x, HEAD + ROW * len(plan.steps), "#e2e2e2"))
    lines.append(_text(MEMORY + LANES + GAP, HEAD - 10, "alive", "small"))
    return lines


def _step(plan: Plan, k: int, step: Step) -> list[str]:
    y = HEAD + ROW * k
    kernel = kernel_of(step)
    fill, edge = KERNELS[kernel]
    moved = _bytes(sum(p.nbytes for p in step.parts()))
    below = " · ".join(part for part in (kernel, _short(step.module, 26), moved) if part)
    reads = ", ".join(_named(plan, p) for p in step.ins if p is not None)
    writes = ", ".join(_named(plan, p) for p in step.written())
    x = LEFT + BOX + GAP
    return [
        "<g>",
        f"<title>{_plain(f'{k} {step.name} ({kernel}){step.where()}')}\nreads {_plain(reads)}\n"
        f"writes {_plain(writes)}</title>",
        _line(LEFT, y + ROW, WIDTH - LEFT, y + ROW, "#f0f0f0"),
        _rect(LEFT, y + 2, BOX, ROW - 4, fill, edge, 4),
        _text(LEFT + 30, y + 13, str(k), "small", "end"),
        _text(LEFT + 38, y + 13, _short(step.name, 30), "op"),
        _text(LEFT + 38, y + 24, below, "small"),
        _text(x, y + 13, _short(reads, 58), "small"),
        _text(x, y + 24, "→ " + _short(writes, 56)),
        "</g>",
    ]


def _named(plan: Plan, part: Part) -> str:
    s = part.storage
    made = "out" if s.kind is BUFFER and id(s) in plan.dynamic() else "b"
    prefix = {BUFFER: made, ARG: "arg", STATE: "state", CONST: "const", SETTING: "setting"}.get(s.kind, s.kind)
    number = str(s.index) if s.kind in (BUFFER, ARG) else ""
    return f"{prefix}{number} {'×'.join(map(str, part.shape)) or 'scalar'}"


# ---- the arena
def _arena(plan: Plan) -> list[str]:
    """Blocks of the buffers, then what each step does to them."""
    lines = [_rect(MEMORY, HEAD, LANES, ROW * len(plan.steps), "none", "#bbbbbb")]
    lives, end = plan.lives(), len(plan.steps)
    lasting = {id(p.storage) for p in plan.lasting}
    for k, s in enumerate(plan.buffers()):
        first, last = lives[id(s)]
        stays = id(s) in lasting
        x, width = _across(plan, plan.places[id(s)], s.nbytes)
        y, height = HEAD + ROW * first, ROW * (min(last, end - 1) - first + 1)
        told = f"b{s.index}, {_bytes(s.nbytes)} at {_bytes(plan.places[id(s)])}, "
        told += "read after the run: for itself all the time" if stays else f"steps {first} to {last}"
        fill = LASTING if stays else LIVES[k % len(LIVES)]
        lines += ["<g>", f"<title>{told}</title>", _rect(x, y, width, height, fill, "#ffffff")]
        label = f"b{s.index} {_bytes(s.nbytes)}"
        if width > 6 * len(label):
            lines.append(_text(x + 4, y + 12, label, "small"))
        elif width > 20:
            lines.append(_text(x + 3, y + 12, f"b{s.index}", "small"))
        lines.append("</g>")
    for k, step in enumerate(plan.steps):
        y = HEAD + ROW * k
        for part in _placed(plan, step.ins):
            x, width = _across(plan, plan.places[id(part.storage)] + part.offset, _extent(part))
            lines.append(_rect(x, y + ROW - 6, width, 2, "#333333"))
        for part in _placed(plan, step.written()):
            x, width = _across(plan, plan.places[id(part.storage)] + part.offset, _extent(part))
            lines.append(_rect(x, y + ROW - 12, width, 8, "#333333", opacity=0.55))
    return lines


def _placed(plan: Plan, parts: Any) -> list[Part]:
    return [p for p in parts if p is not None and id(p.storage) in plan.places]


def _extent(part: Part) -> int:
    return sum((n - 1) * abs(s) for n, s in zip(part.shape, part.strides)) + part.dtype.itemsize if part.nbytes else 0


def _across(plan: Plan, offset: int, nbytes: int) -> tuple[float, float]:
    """Where so many bytes lie, and how wide they are: at least a pixel, or they would not be seen."""
    scale = LANES / max(plan.arena_bytes, 1)
    return round(MEMORY + offset * scale, 2), round(max(nbytes * scale, 1), 2)


def _live(plan: Plan) -> list[str]:
    """How much of the arena is alive at each step."""
    lives, x = plan.lives(), MEMORY + LANES + GAP
    lines = []
    for k in range(len(plan.steps)):
        alive = sum(s.nbytes for s in plan.buffers() if lives[id(s)][0] <= k <= lives[id(s)][1])
        y = HEAD + ROW * k
        width = round(LIVE * alive / max(plan.arena_bytes, 1), 2)
        lines += [_rect(x, y + 14, max(width, 1), 10, "#b9c7d8"), _text(x, y + 11, _bytes(alive), "small")]
    return lines


# ---- SVG
def _plain(text: str) -> str:
    """Text as XML takes it."""
    return escape("".join(c if c.isprintable() or c == "\n" else "�" for c in text))


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    more = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x}" y="{y}"{more}>{_plain(text)}</text>'


def _rect(
    x: float, y: float, width: float, height: float, fill: str, edge: str = "", corner: int = 0, opacity: float = 1
) -> str:
    more = f' stroke="{edge}"' if edge else ""
    more += f' rx="{corner}"' if corner else ""
    more += f' fill-opacity="{opacity}"' if opacity != 1 else ""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}"{more}/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}"/>'
