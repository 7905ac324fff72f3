"""Files of every format, changed at random, are read or refused with a sentence; what once was neither stays mended."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest

from damage import read_anything, variants
from voxelworks.errors import VoxelworksError
from voxelworks.testing.rounds import rounds
from voxelworks.testing.small_files import write_all, write_archives

SEEDS = Path(__file__).parents[2] / "seeds"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("originals")
    return write_all(folder / "formats") | write_archives(folder / "archives")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Without the thousands of words that tifffile has for damaged files."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_what_is_not_changed_is_read(originals, tmp_path):
    for number, path in enumerate(originals.values()):
        read_anything(path, tmp_path / str(number))


def test_a_changed_file_is_read_or_refused(originals, tmp_path):
    seed = random.SystemRandom().randrange(2**32)
    changed = variants(originals, tmp_path / "case", random.Random(seed))
    for number, (name, path) in enumerate(islice(changed, rounds(100, 20_000))):
        try:
            with suppress(VoxelworksError):
                read_anything(path, tmp_path / "scratch")
        except Exception as error:
            error.add_note(f"variant {number} of seed {seed}, of {name}: {path}")
            raise
        shutil.rmtree(tmp_path / "scratch", ignore_errors=True)


@pytest.mark.parametrize("seed", sorted(SEEDS.iterdir()), ids=lambda path: path.name)
def test_what_once_broke_a_reader_is_read_or_refused(seed, tmp_path):
    [path] = seed.iterdir()
    with suppress(VoxelworksError):
        read_anything(path, tmp_path)
