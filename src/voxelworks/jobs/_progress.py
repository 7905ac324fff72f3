"""Progress of an attempt, and how long it may still take (R21)."""

from __future__ import annotations

from itertools import pairwise
from statistics import quantiles

from voxelworks.protocol.messages import Progress
from voxelworks.protocol.views import EtaView

Sample = list[int]
"""`[ms, done]`: when the server learned of it, and how many units were done."""

_SAMPLES_MAX = 64
_SAMPLES_MIN = 4
_RECENT_FRACTION = 0.1
_ETA_FROM_FRACTION = 0.03


def newer(known: Progress | None, told: Progress | None) -> Progress | None:
    """Give the progress to keep: it never goes backwards, as messages may overtake each other.

    Older workers do not count their messages: of these only those of the same phase can be told apart.
    """
    if told is None or known is None:
        return told or known
    is_late = 0 < told.number < known.number
    goes_back = known.phase == told.phase and told.done < known.done
    return known if is_late or goes_back else told


def add_sample(samples: list[Sample], known: Progress | None, progress: Progress, at_ms: int) -> list[Sample]:
    """Remember a progress, and forget what no longer tells of the present rate.

    Kept are the samples of the last 10 % of the units, at least 4; when they become many, every second one.
    """
    if known is None or known.phase != progress.phase:
        return [[at_ms, progress.done]]
    if samples and (progress.done <= samples[-1][1] or at_ms <= samples[-1][0]):
        return samples
    kept = [*samples, [at_ms, progress.done]]
    recent_from = progress.done - _RECENT_FRACTION * progress.total
    while len(kept) > _SAMPLES_MIN and kept[1][1] <= recent_from:
        kept = kept[1:]
    return kept if len(kept) <= _SAMPLES_MAX else kept[::2] + ([] if len(kept) % 2 else kept[-1:])


def eta(progress: Progress, samples: list[Sample]) -> EtaView | None:
    """Estimate the remaining time of the phase from the quartiles of the recent rates.

    None below 3 % of the phase, at its end, and before there are two samples.
    """
    if not _ETA_FROM_FRACTION * progress.total <= progress.done < progress.total or len(samples) < 2:
        return None
    rates = [
        (done - before) / ((at_ms - before_ms) / 1000)
        for (before_ms, before), (at_ms, done) in pairwise(samples)
    ]
    slow, _, fast = quantiles(rates, n=4, method="inclusive") if len(rates) > 1 else (rates[0],) * 3
    remaining = progress.total - progress.done
    return EtaView(low_s=remaining / fast, high_s=remaining / slow)
