"""Simplest correct export of an array to a zip of uncompressed TIFF sections.

python benchmarks/floors/export_floor.py SOURCE TARGET PROCESSES
"""

import io
import multiprocessing
import sys
import zipfile
from functools import partial
from pathlib import Path

import tifffile
from reading import open_level

DEPTH = 64
"""Sections that are read at once: those of a chunk."""


def main() -> None:
    source, target, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    depth = open_level(source).shape[0]
    with (
        multiprocessing.get_context("spawn").Pool(processes) as pool,
        zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive,
    ):
        for first, files in enumerate(pool.imap(partial(encode, source), range(0, depth, DEPTH))):
            for number, content in enumerate(files, start=first * DEPTH):
                archive.writestr(f"{number:05}.tif", content)


def encode(source: Path, first: int) -> list[bytes]:
    array = open_level(source)
    files = []
    for section in array[first : min(first + DEPTH, array.shape[0])].read().result():
        stream = io.BytesIO()
        tifffile.imwrite(stream, section, photometric="minisblack")
        files.append(stream.getvalue())
    return files


if __name__ == "__main__":
    main()
