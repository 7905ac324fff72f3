"""Backup and restore, on both databases: all that was there comes back, and nothing is lost when it goes wrong."""

from __future__ import annotations

import io
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import inspect, text

from voxelworks import accounts
from voxelworks.db import Database, SecretBox, open_database
from voxelworks.errors import InvalidInput, SourceNotFound, StorageFailed, TargetExists
from voxelworks.server.backup import make_backup, restore_backup
from voxelworks.settings import Settings
from voxelworks.testing.databases import new_postgresql_database, test_server_url

Rows = dict[str, list[tuple[object, ...]]]


@pytest.fixture(params=["sqlite", "postgresql"])
def make_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Settings]]:
    """Give the settings of a server by name, each with a home and a database of its own."""
    if request.param == "sqlite":
        yield lambda name: Settings(home=tmp_path / name)
        return
    server_url = test_server_url()
    if server_url is None:
        pytest.skip("VOXELWORKS_TEST_POSTGRES is not set")
    opened = []

    def make(name: str) -> Settings:
        context = new_postgresql_database(server_url)
        database = context.__enter__()
        opened.append(context)
        url = database.engine.url.render_as_string(hide_password=False)
        database.close()
        return Settings(home=tmp_path / name, database_url=SecretStr(url))

    yield make
    for context in reversed(opened):
        context.__exit__(None, None, None)


@pytest.fixture
def make_lite(tmp_path: Path) -> Callable[[str], Settings]:
    """The same with SQLite alone, for what does not depend on the database."""
    return lambda name: Settings(home=tmp_path / name)


def fill(settings: Settings) -> str:
    """Make a server with people, a secret, a log and an annotation; give the encrypted secret."""
    database = open_database(settings)
    with database.session() as session:
        accounts.prepare(session)
        accounts.set_up(
            session, name="Ada", email="ada@example.org", password="correct horse staple", organization_name="Lab"
        )  # fmt: skip
    database.close()
    sealed = SecretBox(settings.secret_key_file).seal("token of another server")
    (settings.home / "worker.key").write_text("key")
    (settings.home / "logs/7").mkdir(parents=True)
    (settings.home / "logs/7/1.log").write_bytes(b"line\n\0\xff")
    (settings.annotations_dir / "local").mkdir(parents=True)
    (settings.annotations_dir / "local/1").write_bytes(b"<things/>")
    return sealed


def rows(settings: Settings) -> Rows:
    database = open_database(settings)
    try:
        with database.read_session() as session:
            names = sorted(inspect(session.connection()).get_table_names())
            return {
                name: sorted((tuple(row) for row in session.execute(text(f"SELECT * FROM {name}"))), key=repr)
                for name in names
            }
    finally:
        database.close()


def files(home: Path) -> dict[str, bytes]:
    kept = ("logs", "datasets", "secret.key", "worker.key")
    found = (path for path in sorted(home.rglob("*")) if path.is_file())
    return {
        path.relative_to(home).as_posix(): path.read_bytes()
        for path in found
        if path.relative_to(home).parts[0] in kept
    }


def test_everything_comes_back(make_settings: Callable[[str], Settings], tmp_path: Path) -> None:
    first, second, file = make_settings("first"), make_settings("second"), tmp_path / "backup"
    sealed = fill(first)
    manifest = make_backup(first, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert restore_backup(second, file) == (manifest, None)
    assert rows(second) == rows(first)
    assert files(second.home) == files(first.home)
    assert {stat.S_IMODE(path.stat().st_mode) for path in second.home.rglob("*") if path.is_file()} == {0o600}
    assert SecretBox(second.secret_key_file).open(sealed) == "token of another server"
    assert [path.name for path in second.home.iterdir() if path.name.startswith(".")] == []


def test_a_restored_server_can_be_backed_up_and_restored_again(
    make_settings: Callable[[str], Settings], tmp_path: Path
) -> None:
    """Also over what is there, which is put aside."""
    first, second = make_settings("first"), make_settings("second")
    fill(first)
    make_backup(first, tmp_path / "once")
    restore_backup(second, tmp_path / "once")
    make_backup(second, tmp_path / "twice")
    before = rows(second)
    database = open_database(second)
    with database.session() as session:
        session.execute(text("UPDATE users SET name = 'changed'"))
    database.close()
    with pytest.raises(TargetExists, match="--replace"):
        restore_backup(second, tmp_path / "twice")
    _, put_aside = restore_backup(second, tmp_path / "twice", may_replace=True)
    assert rows(second) == before
    assert put_aside is not None
    assert (second.home / Path(put_aside).name / "logs/7/1.log").exists()


def test_a_backup_while_others_write_is_of_one_moment(
    make_settings: Callable[[str], Settings], tmp_path: Path
) -> None:
    first, second = make_settings("first"), make_settings("second")
    fill(first)
    database = open_database(first)
    with database.session() as session:
        session.execute(text("CREATE TABLE pots (name TEXT PRIMARY KEY, amount INTEGER, filler TEXT)"))
        session.execute(text("INSERT INTO pots VALUES ('a', 1000, ''), ('b', 0, '')"))
        for number in range(200):
            session.execute(
                text("INSERT INTO pots VALUES (:name, 0, :filler)"),
                {"name": f"x{number}", "filler": "x" * 20_000},
            )
    stop = threading.Event()
    moves = []

    def move() -> None:
        while not stop.is_set():
            with database.session() as session:
                session.execute(text("UPDATE pots SET amount = amount - 1 WHERE name = 'a'"))
                session.execute(text("UPDATE pots SET amount = amount + 1 WHERE name = 'b'"))
            moves.append(1)

    thread = threading.Thread(target=move)
    thread.start()
    try:
        for number in range(3):
            make_backup(first, tmp_path / f"backup{number}")
    finally:
        stop.set()
        thread.join()
        database.close()
    assert len(moves) > 10
    for number in range(3):
        restore_backup(second, tmp_path / f"backup{number}", may_replace=number > 0)
        assert sum(row[1] for row in rows(second)["pots"]) == 1000


def test_without_keys_no_key_is_in_it(make_lite: Callable[[str], Settings], tmp_path: Path) -> None:
    first, second = make_lite("first"), make_lite("second")
    sealed = fill(first)
    make_backup(first, tmp_path / "backup", with_keys=False)
    restore_backup(second, tmp_path / "backup")
    assert not any("key" in name for name in files(second.home))
    with pytest.raises(StorageFailed):
        SecretBox(second.secret_key_file).open(sealed)


def test_a_backup_that_was_cut_off_or_changed_changes_nothing(
    make_lite: Callable[[str], Settings], tmp_path: Path
) -> None:
    first = make_lite("first")
    fill(first)
    make_backup(first, tmp_path / "backup")
    whole = (tmp_path / "backup").read_bytes()
    before = rows(first), files(first.home)
    for content in (
        whole[: len(whole) // 2],
        b"no archive",
        _archive({"../escaped": b""}),
        _archive({"manifest.json": b"{}"}),
    ):
        (tmp_path / "broken").write_bytes(content)
        with pytest.raises(InvalidInput):
            restore_backup(first, tmp_path / "broken", may_replace=True)
    assert (rows(first), files(first.home)) == before
    assert not (tmp_path / "escaped").exists()
    with pytest.raises(SourceNotFound):
        restore_backup(first, tmp_path / "missing", may_replace=True)


def test_a_backup_does_not_overwrite_a_file(make_lite: Callable[[str], Settings], tmp_path: Path) -> None:
    first = make_lite("first")
    fill(first)
    (tmp_path / "backup").write_text("mine")
    with pytest.raises(TargetExists):
        make_backup(first, tmp_path / "backup")
    assert (tmp_path / "backup").read_text() == "mine"


def test_a_backup_of_a_newer_version_is_refused_before_anything_is_changed(
    make_lite: Callable[[str], Settings], tmp_path: Path
) -> None:
    first = make_lite("first")
    fill(first)
    make_backup(first, tmp_path / "backup")
    entries = _entries(tmp_path / "backup")
    newest = entries["manifest.json"].split(b'"revision": "')[1].split(b'"')[0]
    entries["manifest.json"] = entries["manifest.json"].replace(newest, b"9999")
    (tmp_path / "newer").write_bytes(_archive(entries))
    before = rows(first)
    with pytest.raises(InvalidInput, match="another version"):
        restore_backup(first, tmp_path / "newer", may_replace=True)
    assert rows(first) == before


def test_a_restore_that_fails_in_the_database_keeps_what_was_there(tmp_path: Path) -> None:
    server_url = test_server_url()
    if server_url is None:
        pytest.skip("VOXELWORKS_TEST_POSTGRES is not set")
    with new_postgresql_database(server_url) as database:
        url = database.engine.url.render_as_string(hide_password=False)
        database.close()
        settings = Settings(home=tmp_path / "home", database_url=SecretStr(url))
        fill(settings)
        make_backup(settings, tmp_path / "backup")
        entries = _entries(tmp_path / "backup")
        entries["database"] = entries["database"][: len(entries["database"]) // 2]
        (tmp_path / "broken").write_bytes(_archive(entries))
        before = rows(settings), files(settings.home)
        with pytest.raises(StorageFailed, match="pg_restore failed"):
            restore_backup(settings, tmp_path / "broken", may_replace=True)
        assert (rows(settings), files(settings.home)) == before
        using = Database(url)
        with using.read_session() as session:
            session.execute(text("SELECT 1"))
            with pytest.raises(TargetExists, match="stop all servers"):
                restore_backup(settings, tmp_path / "backup", may_replace=True)
        using.close()


def test_a_backup_of_the_other_kind_of_database_is_refused(tmp_path: Path) -> None:
    lite = Settings(home=tmp_path / "lite")
    fill(lite)
    make_backup(lite, tmp_path / "backup")
    other = Settings(
        home=tmp_path / "other", database_url=SecretStr("postgresql+psycopg://nobody@127.0.0.1:1/x")
    )
    with pytest.raises(InvalidInput, match="holds a sqlite database, the settings name postgresql"):
        restore_backup(other, tmp_path / "backup")


def test_missing_client_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy import make_url

    from voxelworks.db import dump_postgresql

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        InvalidInput, match="pg_dump is not installed; it comes with PostgreSQL's client programs"
    ):
        dump_postgresql(make_url("postgresql+psycopg://nobody@127.0.0.1:1/x"), tmp_path / "dump")


def _entries(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def _archive(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
