"""Colours that the answer report and the plots share, for light and for dark pages."""

from __future__ import annotations

from dataclasses import dataclass, fields

LEVELS = 8
"""Steps of a ramp above its bare ground."""

RAMPS = {"u": "apart", "l": "looked", "m": "fine"}
"""Ramps by the letter of their CSS names: the colour of [`Theme`] that each ends in; all begin at `card`."""


@dataclass(frozen=True)
class Theme:
    """Colours of one kind of page, as `#rrggbb`.

    Attributes:
        back, card, line (`str`): the page, what lies on it, and edges.
        text, soft (`str`): writing, and writing that stands back.
        link, warn, good (`str`): writing of links, of warnings and of what was kept.
        apart (`str`): full end of the ramp behind tokens: the branches disagree.
        looked (`str`): full end of the ramp behind document sentences: attention.
        coarse, fine (`str`): bars of the filter's two passes; `fine` also ends the ramp of head maps.
    """

    back: str
    card: str
    line: str
    text: str
    soft: str
    link: str
    warn: str
    good: str
    apart: str
    looked: str
    coarse: str
    fine: str


LIGHT = Theme(
    back="#ffffff",
    card="#f6f5f2",
    line="#d8d5cf",
    text="#1c1c1c",
    soft="#5a5a5a",
    link="#1f5a94",
    warn="#8a4b00",
    good="#1d6340",
    apart="#f29a4a",
    looked="#6fa8dc",
    coarse="#7d8fa1",
    fine="#1f5a94",
)
DARK = Theme(
    back="#16181b",
    card="#1f2226",
    line="#3d4147",
    text="#e8e8e6",
    soft="#a8a8a5",
    link="#8dbcec",
    warn="#e8b36b",
    good="#86cfa5",
    apart="#93500f",
    looked="#2d6294",
    coarse="#7d8b9a",
    fine="#8dbcec",
)


def mix(first: str, second: str, share: float) -> str:
    """The colour that lies `share` (0 to 1) of the way from the first to the second."""
    parts = ((int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in parts)


def ramp(ground: str, full: str) -> list[str]:
    """The ground and `LEVELS` steps from it to the full colour."""
    return [mix(ground, full, step / LEVELS) for step in range(LEVELS + 1)]


def level(value: float) -> int:
    """Step of a ramp for a value of 0 to 1; what lies outside goes to the nearest end."""
    return min(LEVELS, max(0, round(value * LEVELS)))


def css_variables(theme: Theme) -> str:
    """The theme as CSS custom properties, with each step of its ramps (`--u0`, `--u1`, ...)."""
    found = {one.name: getattr(theme, one.name) for one in fields(theme)}
    for letter, full in RAMPS.items():
        found |= {f"{letter}{step}": colour for step, colour in enumerate(ramp(theme.card, getattr(theme, full)))}
    return " ".join(f"--{name}: {value};" for name, value in found.items())


def css_steps() -> str:
    """Rules that give each step of each ramp a class of its name."""
    rules = (
        f".{letter}{step} {{ background: var(--{letter}{step}); fill: var(--{letter}{step}); }}\n"
        for letter in RAMPS
        for step in range(LEVELS + 1)
    )
    return "".join(rules)
