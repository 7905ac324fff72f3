"""What `evaluate_segmentation` looks up along the trees of an annotation, and the report that people read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.geometry import Box
from voxelworks.ops.evaluation import CONFIDENCE, RESAMPLES, Interval
from voxelworks.ops.skeletons import Faulty, Merger, Position, SkeletonScores
from voxelworks.volumes.annotations import Skeleton
from voxelworks.volumes.dataset import MagArray
from voxelworks.workflows._report import (
    Heading,
    count_text,
    html_table,
    number_text,
    page,
    range_text,
)
from voxelworks.workflows._runs import whole_chunks

_READ_EDGE = 128
"""Voxels along each axis in which points are looked at together."""
_NAME_LENGTH = 60
_FATES = (("right", "right"), ("merged", "merged"), ("cut", "cut"), ("omitted", "in no segment"))
"""What becomes of a path, and what the report calls it."""


@dataclass(frozen=True)
class Truth:
    """The neurons that an annotation says there are."""

    skeleton: Skeleton
    are_groups: bool
    """Whether the trees of a group are one neuron."""

    @property
    def neurons(self) -> NDArray[np.int64]:
        """Give the number of the neuron of each node: that of its tree, or, behind these, one for each group."""
        trees = np.arange(len(self.skeleton.names))
        if self.are_groups:
            _, places = np.unique(self.skeleton.groups, return_inverse=True)
            trees = np.where(self.skeleton.groups >= 0, len(trees) + places, trees)
        return np.asarray(trees[self.skeleton.trees])

    def name_of(self, neuron: int) -> str:
        """Give the name of a neuron as the file has it, or else its number in the file."""
        trees = len(self.skeleton.names)
        if neuron < trees:
            return (self.skeleton.names[neuron] or f"tree {neuron + 1}")[:_NAME_LENGTH]
        group = int(np.unique(self.skeleton.groups)[neuron - trees])
        return self.skeleton.group_names.get(group, f"group {group}")[:_NAME_LENGTH]

    @property
    def box(self) -> Box:
        """The smallest box with all nodes, in mag 1."""
        voxels = np.floor(self.skeleton.positions_xyz).astype(np.int64)
        low, high = voxels.min(axis=0).tolist(), voxels.max(axis=0).tolist()
        width, height, depth = (b - a + 1 for a, b in zip(low, high, strict=True))
        return Box((low[0], low[1], low[2]), (width, height, depth))


def piece_of(source: MagArray) -> tuple[int, int, int]:
    """Give the size (x, y, z) of what is read at a time: whole chunks."""
    return whole_chunks(source, _READ_EDGE)


def block_bytes(source: MagArray) -> int:
    return 2 * math.prod(piece_of(source)) * source.dtype.itemsize + 2**25


def report(heading: Heading, scores: SkeletonScores, truth: Truth, *, merger_nm_min: float) -> str:
    """Write everything as one page."""
    total, shown = scores.total, len(scores.worst)
    noun = "Groups and trees" if truth.are_groups else "Trees"
    left_out = len(scores.neurons) - shown
    more = f" The other {count_text(left_out)} are left out." if left_out else ""
    others = int(total["mergers"]) - len(scores.mergers)
    fewer = f" {count_text(others)} more are left out." if others else ""
    return page(
        heading,
        f"""<h2>Path</h2>
<p>{count_text(len(scores.neurons))} {noun.lower()} with {_length(total["length_nm"])} of path lie in the box;
{count_text(scores.points)} points of them were looked up in the segmentation.</p>
{_bar(total, "whole")}
{_legend(total)}
<p>Of {count_text(int(total["pieces"]))} edges {count_text(int(total["cut"]))} are cut: their ends lie in two segments.
{count_text(int(total["omitted"]))} have an end in no segment. {count_text(int(total["mergers"]))} segments are mergers:
they hold {_length(merger_nm_min)} of path or more of each of two neurons; what lies in them counts as merged.</p>
<h2>Scores</h2>
<p>The expected run length is how far one can follow a neuron in one segment from a random place on it, 0 in mergers.
Variation of information is that of points, weighted by the path at them; what lies in no segment counts as one segment
more. Ranges are those of {CONFIDENCE:.0%} of {RESAMPLES} draws of neurons.</p>
{_scores(scores)}
<h2>{noun}</h2>
<p>Those come first from which the expected run length suffers most.{more} Positions are x, y, z in voxels of mag 1.</p>
{_neurons(scores.worst, truth)}
<h2>Mergers</h2>
<p>Segments that join several neurons, by the path in them. The first two positions are those where the two longest come
nearest to each other.{fewer}</p>
{_mergers(scores.mergers, truth)}""",
    )


def _scores(scores: SkeletonScores) -> str:
    none = Interval(math.nan, math.nan, math.nan)

    def row(name: str, text: str, value: str, interval: str = range_text(none)) -> list[str]:
        return [f"{name}<br><small>{text}</small>", value, interval]

    erl = scores.erl_nm
    spread = "–" if math.isnan(erl.low) else f"{_length(erl.low)} to {_length(erl.high)}"
    rows = [
        row("Expected run length", "higher is better", _length(erl.value), spread),
        row("As a share", "of that of a perfect segmentation; 0 to 1, higher is better",
            number_text(scores.erl_share.value), range_text(scores.erl_share)),
        row("VOI split", "bits, lower is better: how far neurons are cut into pieces", number_text(scores.voi_split)),
        row("VOI merge", "bits, lower is better: how far segments join neurons", number_text(scores.voi_merge)),
        row("VOI", "bits, lower is better: the sum of both", number_text(scores.voi)),
        row("Adapted Rand error", "0 to 1, lower is better: 1 minus the F-score of pairs of points",
            number_text(scores.adapted_rand_error)),
        row("Rand precision", "pairs of points in one segment that belong together",
            number_text(scores.rand_precision)),
        row("Rand recall", "pairs of points that belong together and are in one segment",
            number_text(scores.rand_recall)),
    ]  # fmt: skip
    return html_table(["Score", "Value", "95 %"], rows, numbers={1, 2})


def _neurons(worst: tuple[Faulty, ...], truth: Truth) -> str:
    rows = [
        [
            escape(truth.name_of(int(item.neuron["number"]))), _bar(item.neuron), _length(item.neuron["length_nm"]),
            _length(item.neuron["erl_nm"]), count_text(int(item.neuron["cut"])),
            count_text(int(item.neuron["omitted"])), count_text(int(item.neuron["mergers"])),
            count_text(int(item.neuron["segments"])),
            "<br>".join(
                f"{what}: {'; '.join(map(_position, places))}"
                for what, places in (("cut", item.cuts), ("no segment", item.omissions)) if places
            ),
        ]
        for item in worst
    ]  # fmt: skip
    names = [
        "Name",
        "Its path",
        "Length",
        "ERL",
        "Cut",
        "Omitted",
        "Mergers",
        "Segments",
        "Some of the places",
    ]
    return html_table(names, rows, numbers={2, 3, 4, 5, 6, 7}, kind="places")


def _mergers(mergers: tuple[Merger, ...], truth: Truth) -> str:
    if not mergers:
        return "<p>None.</p>"
    rows = []
    for merger in mergers:
        parts = [
            f"{escape(truth.name_of(neuron))} ({_length(length)}) at {_position(place)}"
            for neuron, length, place in merger.parts
        ]
        if merger.neurons > len(parts):
            parts.append(f"and {count_text(merger.neurons - len(parts))} more")
        rows.append([str(merger.segment), _length(merger.length_nm), "<br>".join(parts)])
    return html_table(["Segment", "Path", "Neurons, with the path of each"], rows, numbers={1}, kind="words")


def _shares(neuron: Any) -> list[tuple[str, str, float]]:
    """Give class, name and share of what became of a path."""
    length = float(neuron["length_nm"])
    return [(kind, name, float(neuron[f"{kind}_nm"]) / length if length else 0) for kind, name in _FATES]


def _bar(neuron: Any, kind: str = "") -> str:
    """Draw what became of a path."""
    shares = _shares(neuron)
    x, parts = 0.0, ""
    for name, _, share in shares:
        parts += f'<rect class="{name}" x="{x:.2f}" width="{100 * share:.2f}" height="10"/>'
        x += 100 * share
    label = ", ".join(f"{text} {share:.0%}" for _, text, share in shares)
    return (
        f'<svg class="bar {kind}" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f"{parts}</svg>"
    )


def _legend(total: Any) -> str:
    items = "".join(
        f'<li><svg class="key" viewBox="0 0 10 10" aria-hidden="true"><rect class="{kind}" width="10" height="10"/>'
        f"</svg>{name} {share:.1%} <small>{_length(total[f'{kind}_nm'])}</small></li>"
        for kind, name, share in _shares(total)
    )
    return f'<ul class="legend">{items}</ul>'


def _length(nm: float) -> str:
    """Write a length in micrometres."""
    if math.isnan(nm):
        return "–"
    return f"{nm / 1000:,.2f} µm".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _position(place: Position) -> str:
    return ",".join(map(str, place))
