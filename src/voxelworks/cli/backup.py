"""`voxelworks admin backup` and `restore`."""

from __future__ import annotations

from pathlib import Path

import click

from voxelworks.cli import _show
from voxelworks.cli._server import only_server_of
from voxelworks.cli._settings import home_option, load_settings
from voxelworks.sizes import size_text


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--without-keys", is_flag=True,
    help="Leave out secret.key and worker.key: whoever reads the file cannot decrypt stored tokens then.",
)  # fmt: skip
@home_option
def backup(file: Path, without_keys: bool, home: Path | None) -> None:
    """Copy database, keys, logs and annotations into FILE; the server may run meanwhile.

    Datasets are not in it: copy the folder of datasets as you copy other large data. Keep FILE safe: it holds password
    hashes, and the keys unless told otherwise.
    """
    from voxelworks.server.backup import make_backup  # slow import: only for this command

    manifest = make_backup(load_settings(home=home), file, with_keys=not without_keys)
    facts = {"backup": file, "size": size_text(file.stat().st_size), "database": manifest.database}
    _show.output().print(_show.facts(facts))


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--replace", "may_replace", is_flag=True, help="Put aside what is there, instead of refusing.")
@home_option
def restore(file: Path, may_replace: bool, home: Path | None) -> None:
    """Put a backup back. Stop the server and all workers first.

    What happened after the backup is forgotten: jobs that ended since run again, mails that were just due may come
    twice. What was there before is put aside and named.
    """
    from voxelworks.server.backup import restore_backup  # slow import: only for this command

    settings = load_settings(home=home)
    with only_server_of(settings):
        manifest, put_aside = restore_backup(settings, file, may_replace=may_replace)
    facts = {
        "restored": file,
        "made": f"{manifest.made} by version {manifest.version}",
        "put aside": put_aside or "nothing",
    }
    _show.output().print(_show.facts(facts))
