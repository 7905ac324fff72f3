"""Give segments other ids: which belong together, and the labels changed accordingly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from voxelworks.errors import UnsupportedDtype
from voxelworks.ops._compile import compiled


def merged_ids(groups: Iterable[Iterable[int]]) -> dict[int, int]:
    """Merge ids that stand in a group together, also over several groups.

    Parameters
    ----------
    groups : iterable of iterables of int
        Ids that belong together. 0 is the background and belongs to nothing.

    Returns
    -------
    dict
        Id -> id that all it belongs to gets: the one that came first. Ids that stay as they are are left out.

    References
    ----------
    Tarjan, R. E. (1975). Efficiency of a good but not linear set union algorithm. Journal of the ACM 22(2), 215-225.
    """
    parents: dict[int, int] = {}
    order: dict[int, int] = {}

    def root_of(label: int) -> int:
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    for group in groups:
        first: int | None = None
        for label in group:
            if label == 0:
                continue
            parents.setdefault(label, label)
            order.setdefault(label, len(order))
            if first is None:
                first = label
                continue
            older, younger = sorted((root_of(first), root_of(label)), key=order.__getitem__)
            parents[younger] = older
    return {label: root for label in parents if (root := root_of(label)) != label}


def replace_labels(labels: NDArray[Any], old: NDArray[Any], new: NDArray[Any]) -> None:
    """Change labels in place.

    Parameters
    ----------
    labels : array of integers, C order
        Of any shape. Labels that are not in `old` stay.
    old : (n,)
        Sorted, without repeats, of the type of `labels`.
    new : (n,)
        What each becomes, of the same type.

    Raises
    ------
    UnsupportedDtype
        If the labels are no integers.
    """
    if labels.dtype.kind not in "iu":
        raise UnsupportedDtype(f"labels of {labels.dtype} cannot be changed; integers can")
    assert labels.flags.c_contiguous
    assert labels.dtype == old.dtype == new.dtype
    if len(old):
        _replace(labels.reshape(-1), old, new)


@compiled
def _replace(labels: NDArray[Any], old: NDArray[Any], new: NDArray[Any]) -> None:
    last, becomes = labels.dtype.type(0), labels.dtype.type(0)
    is_known = False
    for i in range(labels.size):
        label = labels[i]
        # Labels come in runs: most are what the one before was.
        if not is_known or label != last:
            low, high = 0, old.size
            while low < high:
                middle = (low + high) // 2
                if old[middle] < label:
                    low = middle + 1
                else:
                    high = middle
            becomes = new[low] if low < old.size and old[low] == label else label
            last, is_known = label, True
        labels[i] = becomes
