"""Change files at random, and see that readers read or refuse them: as part of the tests, and for as long as wanted.

    nice python tests/damage.py --minutes 15 --keep FOLDER [--only NAME] [FILE_OR_FOLDER ...]

changes files of every format, and those that are named, in processes of their own. What raises anything but an error
for people, or takes too long or too much, is kept in FOLDER: such a file becomes one of `tests/seeds`, which every run
of the tests reads, when its reader is mended.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

from voxelworks import archives
from voxelworks.archives.limits import ArchiveLimits
from voxelworks.errors import VoxelworksError
from voxelworks.geometry import Box
from voxelworks.testing.small_files import write_all, write_archives
from voxelworks.volumes.annotations import Annotation, Limits
from voxelworks.volumes.formats import open_volumes

SECONDS_MAX = 5
MEMORY_MAX_BYTES = 500 * 2**20
EDGE_MAX = 64
LIMITS = Limits(nml_bytes_max=2**20, bytes_max=2**24)
NUMBERS = (0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
WORDS = (
    b"-1", b"0", b"1e400", b"NaN", b"99999999999999999999", b"[[[[", b"{}", b"null", b"<!ENTITY a 'b'>", b"../..",
    b"\0", b"</", b'"', b"\xff\xfe",
)  # fmt: skip


def damaged(data: bytes, dice: random.Random) -> bytes:
    """Change a few places of a text or of bytes."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 3, 8))):
        # Headers are worth more than voxels.
        at = dice.randrange(min(len(changed), dice.choice((64, 512, len(changed)))) or 1) if changed else 0
        length = dice.choice((1, 2, 4, 8, 40))
        match dice.randrange(7):
            case 0:
                changed[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                code = dice.choice(("B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
                size = struct.calcsize(code)
                number = dice.choice(NUMBERS) % 2 ** (8 * size)
                changed[at : at + size] = struct.pack(code, number)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length]
            case 4:
                changed[at:at] = dice.choice(WORDS)
            case 5:
                other = dice.randrange(len(changed) or 1)
                changed[at : at + length] = changed[other : other + length]
            case _:
                del changed[at + dice.randrange(1, 2000) :]
    return bytes(changed)


def read_anything(path: Path, scratch: Path) -> None:
    """Read what a path holds as whatever it is: an annotation, an archive, or volumes, a part of each.

    Raises
    ------
    VoxelworksError
        As it should if there is something wrong.
    """
    if path.suffix == ".nml" or path.suffixes == [".zip"]:
        annotation = Annotation.open(path, LIMITS)
        for number, layer in enumerate(annotation.summary.volume_layers[:2]):
            buckets = annotation.unpack_volume(layer, scratch / f"layer{number}")
            for box in [] if buckets is None else list(buckets)[:2]:
                buckets.array.read(Box(box.topleft, (min(box.size[0], EDGE_MAX), 4, 4)))
        return
    if archives.kind_of(path) is not None and path.suffix != ".npz":
        path = archives.unpack(path, scratch / "unpacked", ArchiveLimits(entries_max=100, bytes_max=2**24))
    for volume in open_volumes(path)[:3]:
        depth, height, width = (min(extent, EDGE_MAX) for extent in volume.source.shape_zyx)
        source = volume.source
        if source.decoding_bytes > MEMORY_MAX_BYTES // 4:
            continue  # the job tells what it has to hold before it begins
        source.read(Box((0, 0, 0), (width, height, min(depth, 2))))
        last = [extent - min(extent, 2) for extent in source.shape_zyx]
        source.read(Box.from_zyx((last[0], last[1], last[2]), (1, 1, 1)))


def variants(originals: dict[str, Path], folder: Path, dice: random.Random) -> Iterator[tuple[str, Path]]:
    """Yield copies below a folder, each changed in one file; the one before is gone."""
    names = sorted(originals)
    while True:
        name = dice.choice(names)
        original = originals[name]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        copy = folder / original.name
        if original.is_file():
            copy.write_bytes(damaged(original.read_bytes(), dice))
        else:
            shutil.copytree(original, copy)
            file = dice.choice(sorted(path for path in copy.rglob("*") if path.is_file()))
            file.write_bytes(damaged(file.read_bytes(), dice))
        yield name, copy


def _try_many(originals: dict[str, Path], folder: Path, seed: int, count: int) -> None:
    """In a child: read variants until one breaks a rule, and say which before it is tried."""
    warnings.simplefilter("error")
    logging.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, path in variants(originals, folder / "case", random.Random(seed)):
        (folder / "name").write_text(name)
        signal.alarm(12 * SECONDS_MAX)
        began = time.process_time()
        try:
            read_anything(path, folder / "scratch")
        except VoxelworksError as error:
            if not error.message or len(error.message) > 2000:
                raise
        spent = time.process_time() - began
        shutil.rmtree(folder / "scratch", ignore_errors=True)
        more_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        if spent > SECONDS_MAX or more_bytes > MEMORY_MAX_BYTES:
            raise RuntimeError(f"took {spent:.1f} s and {more_bytes // 2**20} MiB")
        count -= 1
        if count == 0:
            return


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only")
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("more", type=Path, nargs="*")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    given.keep.mkdir(parents=True, exist_ok=True)
    tried, found = 0, 0
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        originals = write_all(folder / "formats") | write_archives(folder / "archives")
        originals |= {str(path): path for path in given.more}
        originals = {name: path for name, path in originals.items() if given.only in (None, name)}
        end = time.monotonic() + 60 * given.minutes
        while time.monotonic() < end:
            seed += 1
            child = os.fork()
            if child == 0:
                try:
                    _try_many(originals, folder, seed, 200)
                except BaseException:
                    (folder / "problem").write_text(traceback.format_exc())
                    os._exit(1)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            tried += 200
            if status:
                found += 1
                _keep(folder, given.keep / f"{seed}", status)
            (folder / "problem").unlink(missing_ok=True)
    print(f"about {tried} changed files, {found} problems in {given.keep}")
    return 1 if found else 0


def _keep(folder: Path, kept: Path, status: int) -> None:
    shutil.copytree(folder / "case", kept)
    problem = folder / "problem"
    told = problem.read_text() if problem.exists() else f"ended with status {status}\n"
    (kept / "problem.txt").write_text(f"{(folder / 'name').read_text()}\n{told}")
    print(f"{kept}: {(folder / 'name').read_text()}: {told.strip().splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
