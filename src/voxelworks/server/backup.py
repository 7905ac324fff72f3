"""Backups: everything that a server knows and that is not a dataset, in one file.

A backup is a tar archive, compressed by gzip::

    manifest.json      what it is
    database           copy of the database: a SQLite file, or what `pg_dump --format=custom` writes
    home/...           keys, logs and annotations

The database is copied first, as it was at one moment: the files that it speaks of are there then, and only grow.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import ValidationError
from sqlalchemy import URL, make_url

import voxelworks
from voxelworks.db import (
    dump_postgresql,
    dump_sqlite,
    open_database,
    require_known,
    restore_postgresql,
    revision_of,
)
from voxelworks.errors import InvalidInput, SourceNotFound, TargetExists, TargetNotWritable
from voxelworks.protocol.messages import Message
from voxelworks.settings import Settings

FORMAT = 1
KEYS = ("secret.key", "worker.key")
FOLDERS = ("logs", "annotations")
"""Names in the backup; `_folders` says where they lie."""
_MANIFEST, _DATABASE, _HOME = "manifest.json", "database", "home"


class Manifest(Message):
    """What a backup holds."""

    format: int
    version: str
    """Of the program that made it."""
    made: str
    """When, in UTC."""
    database: Literal["sqlite", "postgresql"]
    revision: str | None
    """Form of the tables."""
    has_keys: bool


def make_backup(settings: Settings, file: Path, *, with_keys: bool = True) -> Manifest:
    """Write a backup; the server may run meanwhile.

    Raises
    ------
    TargetExists, TargetNotWritable
        About `file`.
    SourceNotFound
        If there is no database.
    InvalidInput
        If PostgreSQL's client programs are missing.
    StorageFailed
        If the database cannot be read, or is damaged.
    """
    if file.exists():
        raise TargetExists(f"{file} exists already; choose another name")
    url = _database_url(settings)
    _require_database(settings, url)
    try:
        # On the same disk as the backup: that one must have room for it anyway.
        with tempfile.TemporaryDirectory(dir=file.absolute().parent, prefix=".voxelworks-backup-") as scratch:
            dump, part = Path(scratch) / _DATABASE, Path(scratch) / "backup"
            if _is_sqlite(url):
                dump_sqlite(settings.sqlite_path, dump)
            else:
                dump_postgresql(url, dump)
            manifest = Manifest(
                format=FORMAT, version=voxelworks.__version__, made=datetime.now(UTC).isoformat(timespec="seconds"),
                database="sqlite" if _is_sqlite(url) else "postgresql", revision=revision_of(url), has_keys=with_keys,
            )  # fmt: skip
            (Path(scratch) / _MANIFEST).write_text(manifest.model_dump_json(indent=2))
            _pack(part, Path(scratch), settings, with_keys=with_keys)
            os.link(part, file)  # unlike a rename, never replaces what somebody has made meanwhile
    except FileExistsError:
        raise TargetExists(f"{file} exists already; choose another name") from None
    except OSError as error:
        raise TargetNotWritable(f"{file} cannot be written: {error.strerror or error}") from error
    return manifest


def restore_backup(
    settings: Settings, file: Path, *, may_replace: bool = False
) -> tuple[Manifest, Path | str | None]:
    """Put a backup back. No server may run meanwhile.

    Everything is unpacked and looked at before anything is changed. What was there is put aside, not deleted.

    Returns
    -------
    manifest
    put_aside : Path, str or None
        Folder, or for PostgreSQL the schema, that holds what was there before; None if nothing was.

    Raises
    ------
    SourceNotFound, InvalidInput
        If the backup is missing, is none, or does not fit the settings.
    TargetExists
        If there is a database already, and it may not be replaced.
    StorageFailed
    """
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = f"before_restore_{time.strftime('%Y%m%d_%H%M%S', time.gmtime())}_{secrets.token_hex(2)}"
    with _unpacked(file, settings.home) as folder:
        manifest = _read_manifest(folder, file)
        url = _database_url(settings)
        _require_fitting(manifest, url)
        require_known(manifest.revision)
        there = [path for path in _belongings(settings, manifest) if path.exists()]
        if there and not may_replace:
            raise TargetExists(f"{there[0]} exists already; choose an empty --home, or give --replace")
        had_tables = manifest.database == "postgresql" and restore_postgresql(
            url, folder / _DATABASE, put_aside=aside if may_replace else None
        )
        put_aside = _put_aside(there, settings.home / aside)
        if manifest.database == "sqlite":
            os.chmod(folder / _DATABASE, 0o600)
            os.rename(folder / _DATABASE, settings.sqlite_path)
        places = _folders(settings)
        for path in sorted((folder / _HOME).glob("*")):
            target = places.get(path.name, settings.home / path.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)  # the folder of datasets may lie on another disk
    open_database(settings).close()  # brings its tables to the form of this version
    return manifest, put_aside or (aside if had_tables else None)


def _database_url(settings: Settings) -> URL:
    if settings.database_url is not None:
        return make_url(settings.database_url.get_secret_value())
    return URL.create("sqlite", database=str(settings.sqlite_path))


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _require_database(settings: Settings, url: URL) -> None:
    if _is_sqlite(url) and not settings.sqlite_path.exists():
        raise SourceNotFound(
            f"there is no database in {settings.home}; name the home of the server with --home"
        )


def _folders(settings: Settings) -> dict[str, Path]:
    """Give the folders that are backed up, by their names in the backup."""
    return dict(zip(FOLDERS, (settings.logs_dir, settings.annotations_dir), strict=True))


def _pack(target: Path, scratch: Path, settings: Settings, *, with_keys: bool) -> None:
    with (
        os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream,
        tarfile.open(fileobj=stream, mode="w:gz", compresslevel=3) as archive,
    ):
        archive.add(scratch / _MANIFEST, _MANIFEST)
        archive.add(scratch / _DATABASE, _DATABASE)
        for name in KEYS if with_keys else ():
            if (settings.home / name).exists():
                archive.add(settings.home / name, f"{_HOME}/{name}")
        for name, folder in _folders(settings).items():
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    # A log may grow, and be removed, while it is copied.
                    with suppress(FileNotFoundError):
                        _add_as_it_is(archive, path, f"{_HOME}/{name}/{path.relative_to(folder).as_posix()}")
        archive.close()
        stream.flush()
        os.fsync(stream.fileno())


def _add_as_it_is(archive: tarfile.TarFile, path: Path, name: str) -> None:
    with path.open("rb") as stream:
        # Its size now: what is appended from here on is not in the backup.
        archive.addfile(archive.gettarinfo(arcname=name, fileobj=stream), stream)


@contextmanager
def _unpacked(file: Path, home: Path) -> Iterator[Path]:
    """Unpack a backup into a folder in `home`: from there everything gets to its place by a rename."""
    if not file.is_file():
        raise SourceNotFound(
            f"there is no file {file}; name a backup that `voxelworks admin backup` has made"
        )
    with tempfile.TemporaryDirectory(dir=home, prefix=".restore-") as folder:
        try:
            with tarfile.open(file, "r:gz") as archive:
                for member in archive:
                    _unpack(archive, member, Path(folder))
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise InvalidInput(f"{file} is not a whole backup ({error}); nothing was changed") from error
        yield Path(folder)


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    parts = PurePosixPath(member.name).parts
    allowed = parts in ((_MANIFEST,), (_DATABASE,)) or (
        len(parts) > 1 and parts[0] == _HOME and parts[1] in (*KEYS, *FOLDERS) and ".." not in parts
    )
    content = archive.extractfile(member) if member.isreg() and allowed else None
    if content is None:
        raise ValueError(f"unexpected entry {member.name!r}")
    target = folder.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        shutil.copyfileobj(content, stream)


def _read_manifest(folder: Path, file: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise InvalidInput(f"{file} is not a backup of Voxelworks; nothing was changed") from error
    if manifest.format > FORMAT or not (folder / _DATABASE).exists():
        raise InvalidInput(
            f"{file} has format {manifest.format}, this version reads up to {FORMAT}; install a newer version"
        )
    return manifest


def _require_fitting(manifest: Manifest, url: URL) -> None:
    kind = "sqlite" if _is_sqlite(url) else "postgresql"
    if manifest.database != kind:
        how = "unset VOXELWORKS_DATABASE_URL" if kind == "postgresql" else "set VOXELWORKS_DATABASE_URL"
        raise InvalidInput(
            f"the backup holds a {manifest.database} database, the settings name {kind}; {how}"
        )


def _belongings(settings: Settings, manifest: Manifest) -> list[Path]:
    """List what the backup takes the place of."""
    names = list(KEYS if manifest.has_keys else ())
    if manifest.database == "sqlite":
        names += [f"{settings.sqlite_path.name}{ending}" for ending in ("", "-wal", "-shm")]
    return [*_folders(settings).values(), *(settings.home / name for name in names)]


def _put_aside(there: list[Path], aside: Path) -> Path | None:
    if not there:
        return None
    aside.mkdir(mode=0o700)
    for path in there:
        shutil.move(path, aside / path.name)
    return aside
