"""`voxelworks inspect PATH`: what a conversion would read, from the headers alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
from rich import box
from rich.table import Table
from rich.text import Text

from voxelworks import archives
from voxelworks.archives import ArchiveLimits
from voxelworks.cli import _show
from voxelworks.cli._workflow_options import option_of
from voxelworks.protocol.messages import Json
from voxelworks.protocol.places import is_remote
from voxelworks.workflows import get_workflow, parse_model
from voxelworks.workflows.convert import LayerSource

if TYPE_CHECKING:
    from voxelworks.volumes.formats import RawLayout, Volume


@click.command()
@click.argument("path")
@click.option("--fill-missing", is_flag=True, help="Accept gaps and unequal sections, as `convert` does.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def inspect(path: str, *, fill_missing: bool, as_json: bool, **raw: str | None) -> int:
    """Say what would be read from a file, folder or address: its volumes, their size, type and voxel size.

    Only headers are read, but an archive is unpacked into the folder for temporary files. Each volume is listed with
    the name that `convert` takes as `--part`. Raw voxels need `--raw-size`, as they do there.

    As JSON: `format`, and `volumes`, each with `part`, `category` (color, segmentation or null), `size` (x, y, z in
    voxels), `dtype`, `channels`, `voxel_size` (x,y,z in nanometres, or null), `voxel_size_from` and `notes`.
    """
    given = {name: value for name, value in raw.items() if value is not None}
    layout = parse_model(LayerSource, {"source": path, **given}).raw_layout
    with _unpacked(path) as place:
        return _show_volumes(path, place, fill_missing=fill_missing, as_json=as_json, raw=layout)


# Those of `convert`: what was tried here is typed there.
inspect.params += [
    option_of(replace(field, is_repeated=False))
    for field in get_workflow("convert").fields
    if field.name.startswith("raw_")
]


@contextmanager
def _unpacked(path: str) -> Iterator[str]:
    """Give what is in an archive, or the path itself."""
    archive = None if is_remote(path) else archives.find(path)
    if archive is None:
        yield path
        return
    with TemporaryDirectory() as folder:
        yield str(archives.unpack(archive, Path(folder) / "unpacked", ArchiveLimits(200_000, 2**50)))


def _show_volumes(path: str, place: str, *, fill_missing: bool, as_json: bool, raw: RawLayout | None) -> int:
    from voxelworks.volumes.formats import format_name, headerless, open_volumes

    volumes = open_volumes(place, fill_missing=fill_missing, raw=raw, may_leave_folder=True)
    name = format_name(place) if raw is None else headerless.NAME
    if as_json:
        click.echo(_show.as_json({"format": name, "volumes": [_facts(volume) for volume in volumes]}))
        return 0
    console = _show.output()
    count = f"{len(volumes)} volumes" if len(volumes) > 1 else "one volume"
    console.print(Text(f"{Path(path).name or path}: {name}, {count}"))
    console.print(_table(volumes))
    for note in dict.fromkeys(note for volume in volumes for note in volume.source.notes):
        parts = [volume.name for volume in volumes if note in volume.source.notes]
        about = "" if len(parts) == len(volumes) else f"{', '.join(parts)}: "
        console.print(Text(f"note: {about}{note}", style="yellow"))
    if len(volumes) > 1:
        console.print(Text("`convert` makes a layer of each; `--part NAME` takes one of them.", style="dim"))
    return 0


def _table(volumes: tuple[Volume, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    titles = ["size (x, y, z)", "type", "voxel size in nm", "stated by"]
    names_parts = any(volume.name for volume in volumes)
    names_categories = any(volume.category for volume in volumes)
    for title in ["part"] * names_parts + titles + ["category"] * names_categories:
        table.add_column(title, overflow="fold")
    for volume in volumes:
        facts = _facts(volume)
        row = [
            " x ".join(map(str, facts["size"])),
            facts["dtype"] + (" RGB" if facts["channels"] == 3 else ""),
            facts["voxel_size"] or "not stated",
            facts["voxel_size_from"],
        ]
        table.add_row(
            *[Text(volume.name)] * names_parts,
            *map(Text, row),
            *[Text(volume.category or "")] * names_categories,
        )
    return table


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
