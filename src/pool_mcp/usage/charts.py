"""Charts: bars and lines as plain data, laid out once as rectangles, lines and words, and written as SVG.

The colours are Okabe and Ito's, which people with any colour vision can tell apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from html import escape
from itertools import pairwise

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A900", "#5F5F5F")
_INK, _FAINT, _LIMIT, _PAPER = "#1F2328", "#D8DEE4", "#CF222E", "#FFFFFF"
WIDTH, HEIGHT = 960, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 64, 44
_FONT = 14

Points = Sequence[tuple[int, float]]
"""``(at_ms, value)`` in order."""


@dataclass(frozen=True, slots=True)
class Bars:
    """Dollars by key, stacked by name; ``values[name]`` has one amount per key."""

    title: str
    keys: Sequence[str]
    values: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Lines:
    """Courses over time in ``unit`` ("$" or "%"), what is expected of them, and a limit they should stay below."""

    title: str
    unit: str
    zone: tzinfo
    lines: Mapping[str, Points]
    expected: Mapping[str, Points]
    limit: float


Chart = Bars | Lines


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    colour: str


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line through points."""

    points: Sequence[tuple[float, float]]
    colour: str
    width: float = 2.0
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """Text at its baseline; ``anchor`` is start, middle or end."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    colour: str = _INK
    size: int = _FONT


Shape = Rectangle | Stroke | Words


@dataclass(slots=True)
class Drawing:
    """Shapes in the order in which they are painted."""

    title: str
    shapes: list[Shape] = field(default_factory=list)


def amount(value: float, unit: str) -> str:
    """A value for an axis or a legend."""
    if unit == "%":
        return f"{value:.0f}%"
    return f"${value:,.0f}" if value >= 100 or value == int(value) else f"${value:.2f}"


def colour_of(at: int) -> str:
    """The colour of the n-th name."""
    return COLOURS[at % len(COLOURS)]


def nice_top(value: float) -> float:
    """The first of 1, 2, 2.5, 5 × 10ⁿ that is not below a value, at least a cent: where an axis ends."""
    power = 0.01
    while 10 * power < value:
        power *= 10
    return next(top for top in (m * power for m in (1, 2, 2.5, 5, 10, 20)) if top >= value)


def draw(chart: Chart) -> Drawing:
    """Lay a chart out."""
    return _bars(chart) if isinstance(chart, Bars) else _lines(chart)


def svg(chart: Chart) -> str:
    """A chart as an SVG document."""
    drawing = draw(chart)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" font-family="system-ui, sans-serif"><title>{escape(drawing.title)}</title>'
    )
    return "\n".join([head, *(_element(shape) for shape in drawing.shapes), "</svg>", ""])


def _element(shape: Shape) -> str:
    match shape:
        case Rectangle(x, y, width, height, colour):
            return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'
        case Stroke(points, colour, width, dashed):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            dash = ' stroke-dasharray="6 5"' if dashed else ""
            return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dash}/>'
        case Words(x, y, text, anchor, colour, size):
            place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}"'
            return f"<text {place}>{escape(text)}</text>"


def _frame(title: str, names: Sequence[tuple[str, str]], top: float, unit: str) -> Drawing:
    """Paper, title, legend and the horizontal grid."""
    drawing = Drawing(title, [Rectangle(0, 0, WIDTH, HEIGHT, _PAPER), Words(_LEFT, 26, title, size=18)])
    x = float(_LEFT)
    for name, colour in names:
        shown = name if len(name) <= 28 else name[:27] + "…"
        if x + 22 + 8 * len(shown) > WIDTH - _RIGHT:
            drawing.shapes.append(Words(x, 50, "…"))
            break
        drawing.shapes += [Rectangle(x, 40, 12, 12, colour), Words(x + 18, 51, shown)]
        x += 36 + 8 * len(shown)
    for step in range(5):
        value = top * step / 4
        y = _y(value, top)
        drawing.shapes += [
            Stroke(((_LEFT, y), (WIDTH - _RIGHT, y)), _FAINT, 1.0),
            Words(_LEFT - 8, y + 5, amount(value, unit), "end"),
        ]
    return drawing


def _y(value: float, top: float) -> float:
    return HEIGHT - _BOTTOM - min(1.0, max(0.0, value / top)) * (HEIGHT - _BOTTOM - _TOP)


def _bars(chart: Bars) -> Drawing:
    heights = [sum(max(0.0, own[at]) for own in chart.values.values()) for at in range(len(chart.keys))]
    top = nice_top(max(heights, default=0.0))
    drawing = _frame(chart.title, [(name, colour_of(n)) for n, name in enumerate(chart.values)], top, "$")
    if not chart.keys:
        drawing.shapes.append(Words(WIDTH / 2, HEIGHT / 2, "nothing spent", "middle"))
        return drawing
    slot = (WIDTH - _LEFT - _RIGHT) / len(chart.keys)
    width = min(48.0, slot * 0.7)
    every = -(-len(chart.keys) * 90 // (WIDTH - _LEFT - _RIGHT))
    for at, key in enumerate(chart.keys):
        x, below = _LEFT + slot * (at + 0.5), 0.0
        for n, own in enumerate(chart.values.values()):
            value = max(0.0, own[at])
            if value:
                y, base = _y(below + value, top), _y(below, top)
                drawing.shapes.append(Rectangle(x - width / 2, y, width, base - y, colour_of(n)))
                below += value
        if at % every == 0:
            drawing.shapes.append(Words(x, HEIGHT - _BOTTOM + 20, key, "middle"))
    return drawing


def _lines(chart: Lines) -> Drawing:
    names = [*chart.lines, *chart.expected]
    courses = [*chart.lines.values(), *chart.expected.values()]
    points = [point for course in courses for point in course]
    top = nice_top(max([chart.limit, *(value for _, value in points)]))
    drawing = _frame(chart.title, [(name, colour_of(n)) for n, name in enumerate(names)], top, chart.unit)
    limit = _y(chart.limit, top)
    drawing.shapes += [
        Stroke(((_LEFT, limit), (WIDTH - _RIGHT, limit)), _LIMIT, 1.5, dashed=True),
        Words(WIDTH - _RIGHT, limit - 6, f"limit {amount(chart.limit, chart.unit)}", "end", _LIMIT),
    ]
    if not points:
        drawing.shapes.append(Words(WIDTH / 2, HEIGHT / 2, "nothing used yet", "middle"))
        return drawing
    first, last = min(at for at, _ in points), max(at for at, _ in points)
    length = max(1, last - first)

    def x_of(at_ms: int) -> float:
        return _LEFT + (at_ms - first) / length * (WIDTH - _LEFT - _RIGHT)

    for n, course in enumerate(courses):
        path = [(x_of(at), _y(value, top)) for at, value in course]
        drawing.shapes.append(Stroke(path, colour_of(n), 2.5, dashed=n >= len(chart.lines)))
    form = "%a %d %b" if length > 2 * 86_400_000 else "%H:%M"
    for step in range(7):
        at = first + length * step // 6
        label = datetime.fromtimestamp(at / 1000, chart.zone).strftime(form)
        anchor = "start" if step == 0 else "end" if step == 6 else "middle"
        drawing.shapes.append(Words(x_of(at), HEIGHT - _BOTTOM + 20, label, anchor))
    return drawing


def dashes(points: Sequence[tuple[float, float]], on: float, off: float) -> list[tuple[float, float, float, float]]:
    """A dashed line as plain segments ``(x1, y1, x2, y2)``, for what cannot dash by itself."""
    segments, along = [], 0.0
    for (x1, y1), (x2, y2) in pairwise(points):
        length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        done = 0.0
        while done < length:
            phase = along % (on + off)
            step = min(length - done, (on if phase < on else on + off) - phase)
            if phase < on:
                a, b = done / length, (done + step) / length
                segments.append((x1 + (x2 - x1) * a, y1 + (y2 - y1) * a, x1 + (x2 - x1) * b, y1 + (y2 - y1) * b))
            done, along = done + max(step, 1e-6), along + max(step, 1e-6)
    return segments
