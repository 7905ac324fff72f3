"""Kinds of microscopy are stated in words: families are found in them, and other models warn."""

from __future__ import annotations

import pytest

from small_networks import small_facts
from voxelworks.geometry import VoxelSize
from voxelworks.protocol.modality import (
    SUGGESTED,
    are_apart,
    family_of,
    modality_of_channels,
    stated_modality,
)


@pytest.mark.parametrize(
    ("words", "family"),
    [
        ("FIB-SEM", "electron"),
        ("FIBSEM", "electron"),
        ("serial block-face and serial-section EM", "electron"),
        ("ssTEM", "electron"),
        ("SBEM", "electron"),
        ("multi-SEM", "electron"),
        ("vEM", "electron"),
        ("Electron Microscopy", "electron"),
        ("serial section", "electron"),
        ("fluorescence", "light"),
        ("light-sheet", "light"),
        ("LaserScanningConfocalMicroscopy", "light"),
        ("MultiPhotonMicroscopy", "light"),
        ("STED", "light"),
        ("micro-CT", "X-ray"),
        ("X-ray holographic nano-tomography", "X-ray"),
        ("synchrotron", "X-ray"),
        # Words that hold such letters by chance, those that name none, and those that name two.
        ("our new system", None),
        ("item 3, delighted", None),
        ("", None),
        ("correlative light and electron microscopy", None),
    ],
)
def test_words_name_a_family(words, family):
    assert family_of(words) == family


def test_all_that_forms_offer_names_a_family():
    assert None not in map(family_of, SUGGESTED)


def test_only_what_is_known_of_both_sets_them_apart():
    assert are_apart("confocal", "FIB-SEM")
    assert not are_apart("ssTEM", "FIB-SEM")
    assert not are_apart("", "FIB-SEM")
    assert not are_apart("confocal", "unheard of")


@pytest.mark.parametrize(
    ("channels", "modality"),
    [
        ([("LaserScanningConfocalMicroscopy", None)], "light microscopy"),
        ([(None, None), ("Other", "509.0")], "light microscopy"),
        ([("Other", None), (None, None)], ""),
        ([], ""),
    ],
)
def test_channels_tell_it_by_their_mode_or_by_what_they_emit(channels, modality):
    assert modality_of_channels(channels) == modality


@pytest.mark.parametrize(
    ("value", "stated"),
    [("FIB-SEM", "FIB-SEM"), ("  light \n sheet ", "light sheet"), ("", None), (7, None), ("x" * 101, None)],
)
def test_what_stands_in_a_file_is_taken_if_it_can_be_one(value, stated):
    assert stated_modality(value) == stated


def test_a_model_warns_of_layers_from_another_kind_of_microscopy():
    facts = small_facts(modality="FIB-SEM")
    assert facts.unfit(VoxelSize(8, 8, 30), "ssTEM") is None
    assert facts.unfit(VoxelSize(8, 8, 30), None) is None
    assert facts.unfit(VoxelSize(8, 8, 30), "confocal") == (
        "the layer is from confocal, and the model is for FIB-SEM: expect worse results"
    )
    assert facts.unfit(VoxelSize(99, 8, 30), "confocal") == (
        "the layer has voxels of 99,8,30 nm, and the model is for 4,4,20 to 16,16,60 nm; the layer is from confocal, "
        "and the model is for FIB-SEM: expect worse results"
    )
