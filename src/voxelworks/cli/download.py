"""`voxelworks download`: get the file that a job has left."""

from __future__ import annotations

from pathlib import Path

import click

from voxelworks.cli import _show
from voxelworks.cli._server import connect, server_options
from voxelworks.errors import Interrupted, ServerUnreachable
from voxelworks.sizes import size_text


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option(
    "-o", "--output", "path", metavar="FILE|FOLDER", type=click.Path(path_type=Path), default=Path(),
    help="File to write, or the folder to write it to under its own name; by default this folder.",
)  # fmt: skip
@server_options
def download(job_id: str, path: Path, server: str | None, token: str | None, home: Path | None) -> None:
    """Download the file that a job has left, such as an export.

    If anything breaks off, the same command goes on where it stopped. The file gets its name when it is whole and its
    checksum is right.
    """
    line = _show.Line("download", job_id)
    with connect(server=server, token=token, home=home) as client:
        try:
            line.begin()
            with _show.LiveLines(_show.messages(), [line], is_transient=True):
                target = client.download(job_id, path, on_progress=line.follower())
        except KeyboardInterrupt:
            raise Interrupted("the download was stopped; the same command goes on with it") from None
        except ServerUnreachable as error:
            raise ServerUnreachable(f"{error}; the same command goes on with the download") from error
    _show.output().print(f"{target}: {size_text(target.stat().st_size)}, its checksum is right", markup=False)
