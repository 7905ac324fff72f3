"""Labelled boxes say at which necks objects are parted, and what is too small to be one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ball_networks import balls
from voxelworks.ai.training import LabelledBox
from voxelworks.geometry import VoxelSize
from voxelworks.workflows import _object_rules
from voxelworks.workflows._object_rules import choose_rules, usual_rules

SIZE = VoxelSize(10, 10, 10)
RADIUS_NM = 80.0
USUAL = usual_rules(RADIUS_NM)


def box_of(labels, specks=()):
    """Give labels, with an image that shows the foreground they have, and specks that are no objects."""
    image = (labels > 0).astype(np.float32)
    for place in specks:
        image[tuple(slice(at, at + 5) for at in place)] = 1
    return LabelledBox(image[np.newaxis], labels.astype(np.int32))


def ideal(image):
    """Predict what is there: foreground, and the distance from its surface."""
    inside = image[0] > 0
    distances = ndimage.distance_transform_edt(inside, sampling=SIZE.zyx) / RADIUS_NM
    return np.round(255 * np.stack([inside, np.minimum(distances, 1)])).astype(np.uint8)


def pairs(*, are_one, apart=12, count=6):
    """Give pairs of balls that overlap: each pair an object, or two that touch."""
    labels = np.zeros((24, 24 * count, 40), np.uint32)
    for number in range(count):
        centres = [(12, 12 + 24 * number, 14), (12, 12 + 24 * number, 14 + apart)]
        found = balls(labels.shape, centres, radius=7.5)
        ids = 1 + number + (0 if are_one else count * (found[found > 0] - 1))
        labels[found > 0] = ids
    return labels


def test_objects_that_touch_are_parted_as_usual():
    labels = pairs(are_one=False)
    found = choose_rules([box_of(labels)], ideal, USUAL, RADIUS_NM, SIZE)
    assert (found.rules, found.objects) == (USUAL, 12)
    assert found.f1 == found.first_f1 == 1


def test_objects_with_a_waist_stay_whole():
    labels = pairs(are_one=True, count=11)
    found = choose_rules([box_of(labels)], ideal, USUAL, RADIUS_NM, SIZE)
    assert found.first_f1 < 0.7 < found.f1 == 1
    # No deeper than needed, and nothing is dropped that need not be.
    assert found.rules.min_depth_nm == pytest.approx(0.4 * RADIUS_NM)
    assert found.rules.size_min_nm3 == USUAL.size_min_nm3
    assert found.rules.seed_distance_nm == USUAL.seed_distance_nm


def test_specks_that_nobody_labelled_are_too_small():
    labels = pairs(are_one=False)
    specks = [(3, 24 * number, 34) for number in range(6)]
    found = choose_rules([box_of(labels, specks)], ideal, USUAL, RADIUS_NM, SIZE)
    assert found.first_f1 < 1
    assert found.f1 == 1
    assert 125_000 < found.rules.size_min_nm3 == pytest.approx(0.1 * 4.19 * RADIUS_NM**3)
    assert found.rules.min_depth_nm == USUAL.min_depth_nm


def test_few_objects_say_too_little():
    found = choose_rules([box_of(pairs(are_one=True))], ideal, USUAL, RADIUS_NM, SIZE)
    assert (found.rules, found.objects) == (USUAL, 6)


def test_the_middle_of_large_boxes_is_looked_at(monkeypatch):
    seen = []

    def predict(image):
        seen.append(image.shape[1:])
        return ideal(image)

    monkeypatch.setattr(_object_rules, "_VOXELS_MAX", 20_000)
    boxes = [box_of(pairs(are_one=False)), box_of(pairs(are_one=True))]
    choose_rules(boxes, predict, USUAL, RADIUS_NM, SIZE)
    assert len(seen) == 2
    assert 0.7 * 20_000 < sum(map(np.prod, seen)) <= 20_000
