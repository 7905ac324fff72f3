"""Curves as lines of an SVG: without a script, so that pages show them as they are sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voxelworks.protocol.messages import Curve

WIDTH, HEIGHT = 600, 160
_LOSS = "Loss"


@dataclass(frozen=True)
class Line:
    """One curve, as the points of a polyline."""

    name: str
    points: str
    last: float


@dataclass(frozen=True)
class Chart:
    """Curves that share their axes."""

    lines: tuple[Line, ...]
    low: float
    high: float
    first: int
    last: int

    @property
    def words(self) -> str:
        """What the chart shows, for those who do not see it."""
        told = ", ".join(f"{line.name} {line.last:.4g}" for line in self.lines)
        return f"{told} at step {self.last:,}"


def charts_of(curves: Sequence[Curve]) -> tuple[Chart, ...]:
    """Draw losses together, and each other curve by itself. What has one point alone is left out."""
    drawable = [curve for curve in curves if len(curve.points) > 1]
    losses = [curve for curve in drawable if curve.name.startswith(_LOSS)]
    others = [[curve] for curve in drawable if not curve.name.startswith(_LOSS)]
    return tuple(_chart(group) for group in ([losses] if losses else []) + others)


def _chart(curves: Sequence[Curve]) -> Chart:
    values = [value for curve in curves for _, value in curve.points]
    steps = [step for curve in curves for step, _ in curve.points]
    low, high, first, last = min(values), max(values), min(steps), max(steps)
    across, up = WIDTH / max(1, last - first), HEIGHT / ((high - low) or 1)

    def line(curve: Curve) -> Line:
        points = " ".join(
            f"{(step - first) * across:.1f},{HEIGHT - (value - low) * up:.1f}" for step, value in curve.points
        )
        return Line(curve.name, points, curve.points[-1][1])

    return Chart(tuple(map(line, curves)), low, high, first, last)
