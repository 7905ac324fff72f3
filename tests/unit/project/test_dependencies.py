"""What is installed beside Voxelworks is permitted, pinned and explained."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
GPL = re.compile(r"(?<!L)(?<!Lesser )\bA?GPL|(?<!Lesser )General Public License", re.IGNORECASE)


def installed_with(extra: str = "") -> set[str]:
    """Follow the requirements of Voxelworks; give the names of all packages that they bring here."""
    found: set[str] = set()
    waiting = [("voxelworks", extra)]
    seen = set(waiting)
    while waiting:
        name, wanted = waiting.pop()
        found.add(canonicalize_name(name))
        for text in distribution(name).requires or []:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": wanted}):
                continue
            for part in ("", *sorted(requirement.extras)):
                if (requirement.name, part) not in seen:
                    seen.add((requirement.name, part))
                    waiting.append((requirement.name, part))
    return found - {"voxelworks"}


def licence_of(package: Distribution) -> str:
    """Join what the package says of its licence in short; long licence texts are cut."""
    metadata = package.metadata
    said = [metadata.get("License-Expression") or "", (metadata.get("License") or "").partition("\n")[0]]
    classifiers = metadata.get_all("Classifier") or []
    return " ".join(said + [classifier for classifier in classifiers if classifier.startswith("License")])


def test_every_package_of_the_default_installation_is_explained():
    page = (ROOT / "docs/decisions/dependencies.md").read_text(encoding="utf-8")
    default_set = page.partition("## Extras")[0]
    explained = set(re.findall(r"^\| ([a-z][a-z0-9-]*) \|", default_set, re.MULTILINE))
    assert explained == installed_with()


@pytest.mark.parametrize("extra", ["", "test"])
def test_no_package_that_is_installed_or_imported_by_tests_is_under_the_gpl_or_agpl(extra):
    licences = {name: licence_of(distribution(name)) for name in installed_with(extra)}
    assert {name: text for name, text in licences.items() if GPL.search(text)} == {}


def test_every_package_that_is_installed_or_imported_by_tests_is_pinned():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if not line.startswith("#")}
    assert installed_with("test") - pinned == set()
