"""What `evaluate_segmentation` computes of a volume, and the report that people read.

Of skeletons in place of a layer, see `_skeleton_evaluation`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

import numpy as np

from voxelworks.geometry import Box, Vec3
from voxelworks.ops.evaluation import (
    CONFIDENCE,
    OVERLAP,
    RESAMPLES,
    Fault,
    Overlaps,
    Scores,
    count_overlaps,
    merge_overlaps,
)
from voxelworks.volumes.dataset import MagArray
from voxelworks.workflows._report import (
    Heading,
    count_text,
    html_table,
    number_text,
    page,
    percent_text,
    range_text,
)
from voxelworks.workflows._runs import Run, whole_chunks, write_run

READ_EDGE = 128
"""Voxels that are read at a time, along each axis."""
_BYTES_PER_VOXEL = 64
"""Memory of a read: labels of both layers, their numbers, and those of the pairs."""
_PARTS_MAX, _PART_EDGE_MIN = 4, 16
"""A volume is cut into at most 4 x 4 x 4 parts to tell how scores vary, each 16 voxels along an axis or more."""


def parts_of(box: Box) -> list[Box]:
    """Cut a box into nearly equal parts, whose scores are compared. They depend on nothing but the box."""
    edges = []
    for start, extent in zip(box.topleft, box.size, strict=True):
        count = max(1, min(_PARTS_MAX, extent // _PART_EDGE_MIN))
        edges.append([start + extent * number // count for number in range(count + 1)])
    xs, ys, zs = ([*pairwise(axis)] for axis in edges)
    return [
        Box((x, y, z), (x_end - x, y_end - y, z_end - z))
        for z, z_end in zs for y, y_end in ys for x, x_end in xs
    ]  # fmt: skip


def pieces_of(segments: MagArray, truth: MagArray, edge: int) -> Vec3:
    """Give the smallest size (x, y, z) of at least `edge` that cuts no chunk of the one with the larger chunks."""
    one, other = whole_chunks(segments, edge), whole_chunks(truth, edge)
    return max(one[0], other[0]), max(one[1], other[1]), max(one[2], other[2])


def block_bytes(segments: MagArray, truth: MagArray) -> int:
    return math.prod(pieces_of(segments, truth, READ_EDGE)) * _BYTES_PER_VOXEL + 2**25


@dataclass(frozen=True)
class OverlapsIn:
    """Count the overlaps of a box. Runs in the processes of the executor."""

    segments: MagArray
    truth: MagArray
    folder: str

    def __call__(self, box: Box) -> Run:
        found = []
        for piece in box.tiles(pieces_of(self.segments, self.truth, READ_EDGE)):
            if self.segments.is_missing(piece) and self.truth.is_missing(piece):
                found.append(np.array([(0, 0, piece.voxel_count)], OVERLAP))
            else:
                found.append(count_overlaps(self.segments.read(piece)[0], self.truth.read(piece)[0]))
        return write_run(Path(self.folder), str(box), merge_overlaps(found))


_EXPLAINED = {
    "voi_split": ("VOI split", "bits, lower is better: how far segments of the truth are cut into pieces"),
    "voi_merge": ("VOI merge", "bits, lower is better: how far segments join what is separate"),
    "voi": ("VOI", "bits, lower is better: the sum of both"),
    "adapted_rand_error": ("Adapted Rand error", "0 to 1, lower is better: 1 minus the F-score of pairs of voxels"),
    "rand_precision": ("Rand precision", "pairs of voxels in one segment that belong together"),
    "rand_recall": ("Rand recall", "pairs of voxels that belong together and are in one segment"),
    "assigned_voi_split": ("VOI split, assigned", "only voxels that the segmentation gives to a segment"),
    "assigned_voi_merge": ("VOI merge, assigned", ""),
    "assigned_voi": ("VOI, assigned", ""),
    "assigned_adapted_rand_error": ("Adapted Rand error, assigned", ""),
    "iou": ("IoU of the foreground", "0 to 1, higher is better: all segments against the background"),
    "dice": ("Dice of the foreground", "0 to 1, higher is better"),
}  # fmt: skip


def report(heading: Heading, scores: Scores) -> str:
    """Write everything as one page."""
    best = scores.matches[0]
    return page(
        heading,
        f"""<h2>Voxels</h2>
<p>{count_text(scores.voxels)} voxels in which the truth has a segment were compared; the segmentation gives
{count_text(scores.assigned)} of them ({percent_text(scores.assigned, scores.voxels)}) to a segment. What it leaves out
counts as one segment more, except in the scores of assigned voxels. Ranges are those of {CONFIDENCE:.0%} of {RESAMPLES}
draws from the parts of the volume.</p>
{_voxelwise(scores)}
<h2>Objects</h2>
<p>{count_text(scores.segments)} segments, {count_text(scores.truths)} in the truth. Two match if what they share is
more than the threshold of what they cover together (IoU). With more than 0.5, {count_text(best.true_positives)} match,
{count_text(best.false_positives)} segments match nothing, and {count_text(best.false_negatives)} of the truth are
missed.</p>
{_chart(scores)}
{_matches(scores)}
<h2>Worst splits</h2>
<p>Segments of the truth that are cut into pieces, by what they add to VOI split.</p>
{_faults(scores.splits, "In the truth", "Segments, with the voxels that they share")}
<h2>Worst merges</h2>
<p>Segments that join several of the truth, by what they add to VOI merge.</p>
{_faults(scores.merges, "Segment", "In the truth, with the voxels that they share")}""",
    )


def _voxelwise(scores: Scores) -> str:
    rows = [
        [
            f"{escape(_EXPLAINED[name][0])}<br><small>{escape(_EXPLAINED[name][1])}</small>",
            number_text(interval.value), range_text(interval),
        ]
        for name, interval in scores.voxelwise.items()
    ]  # fmt: skip
    return html_table(["Score", "Value", "95 %"], rows, numbers={1, 2})


def _matches(scores: Scores) -> str:
    rows = [
        [
            f"{match.threshold:.2f}", count_text(match.true_positives), count_text(match.false_positives),
            count_text(match.false_negatives), number_text(match.precision.value), number_text(match.recall.value),
            f"{number_text(match.f1.value)}<br><small>{range_text(match.f1)}</small>",
            number_text(match.panoptic_quality.value),
        ]
        for match in scores.matches
    ]  # fmt: skip
    names = [
        "IoU above", "Matches", "Too many", "Not found", "Precision", "Recall", "F1, 95 %", "Panoptic quality",
    ]  # fmt: skip
    return html_table(names, rows, numbers=set(range(len(names))))


def _faults(faults: Sequence[Fault], one: str, parts: str) -> str:
    if not faults:
        return "<p>None.</p>"
    rows = [
        [
            str(fault.id), count_text(fault.voxels), f"{fault.bits:.4f}",
            ", ".join(f"{'nothing' if id_ == 0 else id_} ({count_text(voxels)})" for id_, voxels in fault.parts),
        ]
        for fault in faults
    ]  # fmt: skip
    return html_table([one, "Voxels", "Bits", parts], rows, numbers={1, 2}, kind="words")


def _chart(scores: Scores) -> str:
    """Draw precision, recall and F1 over the threshold."""
    left, top, width, height = 40, 12, 500, 200
    grid = ""
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = top + height * (1 - share)
        grid += f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>'
        grid += f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{share:g}</text>'
    places = [left + width * number / (len(scores.matches) - 1) for number in range(len(scores.matches))]
    grid += "".join(
        f'<text x="{x:.1f}" y="{top + height + 20}" text-anchor="middle">{match.threshold:g}</text>'
        for x, match in zip(places, scores.matches, strict=True)
    )
    lines = ""
    for number, (name, label) in enumerate((("f1", "F1"), ("precision", "Precision"), ("recall", "Recall"))):
        values = [getattr(match, name).value for match in scores.matches]
        points = [
            (x, top + height * (1 - value)) for x, value in zip(places, values, strict=True) if not math.isnan(value)
        ]  # fmt: skip
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
        key = f'<text class="name" x="{left + width + 16}" y="{top + 14 + 22 * number}">{label}</text>'
        lines += f'<g class="{name}"><polyline points="{line}"/>{dots}{key}</g>'
    return (
        f'<figure><svg viewBox="0 0 640 {top + height + 32}" role="img" aria-label="F1, precision and recall over the '
        f'threshold of the intersection over union">{grid}{lines}</svg></figure>'
    )


def memory_bytes(rows: int) -> int:
    """Estimate the memory that scores of so many overlaps take: tables, indices, and a draw of them."""
    return 256 * rows + 2**26


def overlaps_of(folder: Path, runs: Iterable[Run]) -> Overlaps:
    """Read the overlaps of a part of the volume, and add them up."""
    return merge_overlaps([np.fromfile(folder / run.name, OVERLAP) for run in runs])
