"""`voxelworks upload`: send images to a server, which makes a dataset of them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from voxelworks.cli import _show
from voxelworks.cli._lists import json_option
from voxelworks.cli._server import connect, server_options
from voxelworks.cli.jobs import announce, wait_option
from voxelworks.client import Client
from voxelworks.errors import InvalidInput, InvalidParams
from voxelworks.geometry import VoxelSize
from voxelworks.protocol.messages import Json
from voxelworks.protocol.uploads import UploadView
from voxelworks.sizes import size_text

if TYPE_CHECKING:
    from voxelworks.volumes.formats import VolumeSource


@dataclass(frozen=True)
class Chosen:
    """What is to be sent."""

    files: dict[str, Path]
    """Path in the upload, and the file."""
    name: str
    """Suggestion for the dataset."""
    main_file: str = ""
    """The file to convert, where one was named: others that belong to it lie beside it."""
    voxel_size: VoxelSize | None = None
    """What the images state."""


@click.command()
@click.argument("paths", metavar="FOLDER|FILES...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--name", metavar="DATASET", help="Name of the new dataset; by default that of the folder or file."
)
@click.option("--voxel-size", metavar="X,Y,Z", help="In nanometres; by default what the images state.")
@click.option("--layer-name", metavar="NAME", help="Name of the layer; by default its category.")
@click.option(
    "--category",
    type=click.Choice(["color", "segmentation"]),
    default="color",
    show_default=True,
    help="color for images, segmentation for labels.",
)
@click.option(
    "--part",
    metavar="NAME",
    help="One volume of a file that holds several, as `voxelworks inspect` names it.",
)
@click.option("--fill-missing", is_flag=True, help="Fill missing sections with zeros and pad smaller ones.")
@click.option("--no-convert", is_flag=True, help="Only send the files; convert them later as upload:ID.")
@server_options
@wait_option
@json_option
def upload(
    paths: tuple[Path, ...],
    name: str | None,
    voxel_size: str | None,
    layer_name: str | None,
    category: str,
    part: str | None,
    fill_missing: bool,
    no_convert: bool,
    server: str | None,
    token: str | None,
    home: Path | None,
    wait: bool,
    as_json: bool,
) -> int:
    """Send images to a server, which makes a dataset of them.

    FOLDER holds one image for each section; or give these images, one file of any format that is read, or one zip.
    Their headers are read first. If anything breaks off, the same command sends only what is missing.
    """  # fmt: skip
    chosen = _look(paths, part, fill_missing=fill_missing)
    if no_convert:
        params: Json = {}
    else:
        named = {} if layer_name is None else {"layer_name": layer_name}
        params = {
            "layers": [{"source": "", "category": category, "part": part, **named}],
            "target": name or chosen.name, "fill_missing": fill_missing, "voxel_size": _voxel_size(voxel_size, chosen),
        }  # fmt: skip
    with connect(server=server, token=token, home=home) as client:
        sent = _send(client, chosen, params)
        if no_convert:
            _tell(sent, as_json=as_json)
            return 0
        job = client.submit("convert", _with_source(params, sent, chosen))
        return announce(client, job, wait=wait, as_json=as_json)


def _look(paths: Sequence[Path], part: str | None, *, fill_missing: bool) -> Chosen:
    """Read the headers of what is to be sent, as the conversion will: what it refuses is refused before it is sent."""
    first = paths[0]
    if len(paths) == 1 and first.suffix.lower() == ".zip" and first.is_file():
        return Chosen({first.name: first}, _suggested(first.stem))
    if len(paths) > 1:
        return _look_together(paths, part, fill_missing=fill_missing)
    sources = _sources(first, part, fill_missing=fill_missing)
    folder = first if first.is_dir() else first.parent
    paths_read = dict.fromkeys(file for source in sources for file in source.files)
    files = {Path(os.path.relpath(file, folder)).as_posix(): Path(file) for file in paths_read}
    main_file = "" if first.is_dir() else first.name
    name = first.resolve().name if first.is_dir() else first.name.partition(".")[0]
    return Chosen(files, _suggested(name), main_file, _stated(sources))


def _sources(place: str | Path, part: str | None, *, fill_missing: bool) -> list[VolumeSource]:
    """Open the volumes that become layers."""
    from voxelworks.volumes.formats import open_source, open_volumes

    if part is not None:
        return [open_source(place, part=part, fill_missing=fill_missing)]
    return [volume.source for volume in open_volumes(place, fill_missing=fill_missing)]


def _stated(sources: Sequence[VolumeSource]) -> VoxelSize | None:
    """Give the voxel size that all volumes have which state one."""
    sizes = {source.voxel_size for source in sources} - {None}
    return sizes.pop() if len(sizes) == 1 else None


def _look_together(paths: Sequence[Path], part: str | None, *, fill_missing: bool) -> Chosen:
    """Read the headers of files that belong together, wherever they lie."""
    with tempfile.TemporaryDirectory(prefix="voxelworks-upload-") as folder:
        for path in paths:
            if not path.is_file():
                raise InvalidInput(f"{path} is not a file; give one folder, or files")
            try:
                (Path(folder) / path.name).symlink_to(path.resolve())
            except FileExistsError:
                raise InvalidInput(f"two files are named {path.name!r}; rename one of them") from None
        sources = _sources(folder, part, fill_missing=fill_missing)
        files = {Path(file).name: Path(file).resolve() for source in sources for file in source.files}
    return Chosen(files, _suggested(paths[0].resolve().parent.name), voxel_size=_stated(sources))


def _suggested(name: str) -> str:
    """Make a dataset name of the name of a folder or file."""
    return re.sub("[^A-Za-z0-9._-]+", "-", name).strip("-._")[:128] or "dataset"


def _voxel_size(given: str | None, chosen: Chosen) -> str | None:
    if given is not None:
        return str(VoxelSize.parse(given))
    if chosen.voxel_size is None and not next(iter(chosen.files)).lower().endswith(".zip"):
        raise InvalidParams(
            "the images state no voxel size; give --voxel-size as x,y,z in nanometres, such as 4,4,40"
        )
    return None


def _with_source(params: Json, sent: UploadView, chosen: Chosen) -> Json:
    source = f"{sent.ref}/{chosen.main_file}" if chosen.main_file else sent.ref
    return params | {"layers": [layer | {"source": source} for layer in params["layers"]]}


def _send(client: Client, chosen: Chosen, params: Json) -> UploadView:
    """Send the files, after the server has looked at the params: a name that is taken is told before the first byte."""
    count, size = len(chosen.files), sum(file.stat().st_size for file in chosen.files.values())
    line = _show.Line("upload", f"{count} file{'s' if count != 1 else ''}, {size_text(size)}")

    def check(begun: UploadView) -> None:
        if params:
            client.quote("convert", _with_source(params, begun, chosen))

    line.begin()
    with _show.LiveLines(_show.messages(), [line], is_transient=True):
        return client.upload(
            chosen.files, is_converted=bool(params), on_begun=check, on_progress=line.follower()
        )


def _tell(sent: UploadView, *, as_json: bool) -> None:
    if as_json:
        click.echo(_show.as_json(sent.model_dump(mode="json")))
        return
    console = _show.output()
    console.print(f"{sent.ref}: {sent.file_count} files, {size_text(sent.size_bytes)}")
    console.print(f"convert them with `voxelworks jobs submit convert --source {sent.ref} ...`", style="dim")
