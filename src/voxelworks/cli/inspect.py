"""`voxelworks inspect PATH`: what a conversion would read, from the headers alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from voxelworks import archives
from voxelworks.archives import ArchiveLimits
from voxelworks.cli import _show
from voxelworks.protocol.messages import Json
from voxelworks.protocol.places import is_remote

if TYPE_CHECKING:
    from voxelworks.volumes.formats import Volume


@click.command()
@click.argument("path")
@click.option("--fill-missing", is_flag=True, help="Accept gaps and unequal sections, as `convert` does.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def inspect(path: str, *, fill_missing: bool, as_json: bool) -> int:
    """Say what would be read from a file, folder or address: its volumes, their size, type and voxel size.

    Only headers are read, but an archive is unpacked into the folder for temporary files. Each volume is listed with
    the name that `convert` takes as `--part`.
    """
    with _unpacked(path) as place:
        return _show_volumes(place, fill_missing=fill_missing, as_json=as_json)


@contextmanager
def _unpacked(path: str) -> Iterator[str]:
    """Give what is in an archive, or the path itself."""
    archive = None if is_remote(path) else archives.find(path)
    if archive is None:
        yield path
        return
    with TemporaryDirectory() as folder:
        yield str(archives.unpack(archive, Path(folder) / "unpacked", ArchiveLimits(200_000, 2**50)))


def _show_volumes(path: str, *, fill_missing: bool, as_json: bool) -> int:
    from voxelworks.volumes.formats import open_volumes

    volumes = open_volumes(path, fill_missing=fill_missing, may_leave_folder=True)
    if as_json:
        click.echo(_show.as_json({"volumes": [_facts(volume) for volume in volumes]}))
        return 0
    for volume in volumes:
        facts = {name: value for name, value in _facts(volume).items() if value not in (None, "", [])}
        facts |= {"size": f"{' x '.join(map(str, facts['size']))} voxels (x, y, z)"}
        _show.output().print(_show.facts(facts))
    return 0


def _facts(volume: Volume) -> Json:
    source = volume.source
    depth, height, width = source.shape_zyx
    return {
        "part": volume.name,
        "category": volume.category,
        "size": [width, height, depth],
        "dtype": source.dtype.name,
        "channels": source.channel_count,
        "voxel_size": None if source.voxel_size is None else str(source.voxel_size),
        "voxel_size_from": source.voxel_size_from,
        "notes": list(source.notes),
    }
