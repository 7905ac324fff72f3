"""`voxelworks inspect PATH`: what a conversion would read, from the headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from voxelworks.cli import _show
from voxelworks.protocol.messages import Json

if TYPE_CHECKING:
    from voxelworks.volumes.formats import Volume


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--fill-missing", is_flag=True, help="Accept gaps and unequal sections, as `convert` does.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def inspect(path: Path, *, fill_missing: bool, as_json: bool) -> int:
    """Say what would be read from a file or folder: its volumes, their size, type and voxel size.

    Only headers are read. Each volume is listed with the name that `convert` takes as `--part`.
    """
    from voxelworks.volumes.formats import open_volumes

    volumes = open_volumes(path, fill_missing=fill_missing)
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
