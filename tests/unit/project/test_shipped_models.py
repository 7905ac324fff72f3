"""The models that come with Voxelworks: whole, described, and where their licence lets them be."""

from pathlib import Path

import pytest

from voxelworks.ai.description import model_card
from voxelworks.ai.package import read_package
from voxelworks.protocol.models import TRAINED_WEIGHTS
from voxelworks.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
IN_WHEEL = ROOT / "src" / "voxelworks" / "models_shipped"
PLACES = [
    folder for root in (IN_WHEEL, ROOT / "models") for folder in sorted(root.iterdir()) if folder.is_dir()
]
BYTES_MAX = 10 * 2**20


def test_models_are_found_by_their_names():
    roots = Settings().model_roots
    assert {folder.parent for folder in PLACES} <= set(roots)
    assert {"mitochondria", "neurons", "nuclei"} <= {folder.name for folder in PLACES}


@pytest.mark.parametrize("folder", PLACES, ids=lambda folder: folder.name)
def test_a_shipped_model_is_whole_and_says_what_it_is(folder):
    facts = read_package(folder).facts
    assert facts.structure == folder.name
    assert facts.is_commercial_use_allowed or folder.parent != IN_WHEEL
    for told in (facts.description, facts.licence, facts.licence_text, facts.limits, facts.citations):
        assert told
    assert any(not score.trained_on or "held-out" not in score.data for score in facts.scores)
    assert (folder / "README.md").read_text() == model_card(facts)
    assert (folder / TRAINED_WEIGHTS).is_file()
    assert sum(file.stat().st_size for file in folder.iterdir()) < BYTES_MAX
