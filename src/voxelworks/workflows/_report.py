"""How the reports of jobs look: one HTML page, which needs nothing else, for a browser of any size, dark or light."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from voxelworks.ops.evaluation import Interval

_STYLE = """
:root { color-scheme: light dark; --text: #1c2026; --muted: #5b6470; --line: #d9dde3; --page: #fff; --one: #3451d1;
  --two: #b4540a; --three: #157f4c; --four: #89929e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ee; --muted: #a2abb8; --line: #333a45; --page: #14171c;
  --one: #93a6ff; --two: #ffb268; --three: #6fd6a2; --four: #6d7785; } }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 60rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
p, figcaption { color: var(--muted); margin: 0 0 .75rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; margin: 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; border-top: 1px solid var(--line); text-align: left; vertical-align: top; }
td:first-child { min-width: 5rem; } .words td:last-child { min-width: 18rem; }
thead th { border-top: 0; color: var(--muted); font-weight: 500; }
.number { text-align: right; white-space: nowrap; } small { color: var(--muted); }
figure { margin: 0; } svg { display: block; width: 100%; max-width: 40rem; height: auto; }
svg text { fill: var(--muted); font-size: 13px; } .grid { stroke: var(--line); }
.f1 { --ink: var(--one); } .precision { --ink: var(--two); } .recall { --ink: var(--three); }
polyline { fill: none; stroke: var(--ink); stroke-width: 2.5; } circle { fill: var(--ink); }
.recall polyline { stroke-dasharray: 2 4; } .precision polyline { stroke-dasharray: 8 4; }
svg .name { fill: var(--ink); }
.right { --ink: var(--three); } .merged { --ink: var(--two); } .cut { --ink: var(--one); }
.omitted { --ink: var(--four); } rect { fill: var(--ink); } svg.bar { width: 7rem; height: 1rem; margin-top: .25rem; }
svg.whole { width: 100%; max-width: none; height: 1.5rem; }
svg.key { display: inline; width: .8rem; margin-right: .4rem; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; padding: 0; margin: .5rem 0 .75rem; list-style: none; }
.places td:first-child { min-width: 7rem; overflow-wrap: anywhere; } .places td:last-child { min-width: 15rem; }
"""


@dataclass(frozen=True)
class Heading:
    """What was compared."""

    title: str
    facts: tuple[tuple[str, str], ...]


def page(heading: Heading, body: str) -> str:
    """Write an HTML page that needs nothing else, and no scripts."""
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in heading.facts)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(heading.title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(heading.title)}</h1>
<dl>{facts}</dl>
{body}
</body></html>
"""


def html_table(
    names: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: set[int], kind: str = ""
) -> str:
    def cells(texts: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if column in numbers else ''}>{text}</{tag}>"
            for column, text in enumerate(texts)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    head = cells([escape(name) for name in names], "th")
    return (
        f'<div class="wide {kind}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def number_text(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def range_text(interval: Interval) -> str:
    return "–" if math.isnan(interval.low) else f"{interval.low:.4f} to {interval.high:.4f}"


def count_text(number: int) -> str:
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def percent_text(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def rounded(value: float) -> float | None:
    """Give a score with the digits that are worth telling; None for one that is not defined."""
    return None if math.isnan(value) else round(value, 5)


def rounded_interval(interval: Interval) -> tuple[float, float] | None:
    low, high = rounded(interval.low), rounded(interval.high)
    return None if low is None or high is None else (low, high)
