"""What the system says of memory and process groups."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from voxelworks.settings import SECRET_NAMES, ImportRoot, Settings
from voxelworks.worker import limits
from voxelworks.worker.process import clean_environment, make_scratch
from voxelworks.worker.spec import job_settings

HOLD = "import sys; held = bytearray(b'x') * int(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"


def hold(byte_count: int, group: int = 0) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(byte_count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        process_group=group,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="counts shared memory once on Linux only")
def test_the_memory_of_a_group_is_that_of_all_its_processes() -> None:
    first = hold(100 * 2**20)
    second = hold(50 * 2**20, group=first.pid)
    try:
        assert sorted(limits.group_members(first.pid)) == sorted([first.pid, second.pid])
        assert 150 * 2**20 < limits.group_memory_bytes(first.pid) < 200 * 2**20
    finally:
        end(second)
        end(first)


def test_an_empty_group_uses_nothing() -> None:
    process = hold(1)
    end(process)
    assert limits.group_memory_bytes(process.pid) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the data of a process")
def test_a_process_that_asks_for_far_too_much_gets_a_memory_error() -> None:
    code = (
        "from voxelworks.worker import limits\n"
        "limits.apply_to_this_process(100 * 2**20)\n"
        "try:\n    bytearray(3 * 2**30)\n"
        "except MemoryError:\n    print('refused')"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "refused\n"


@pytest.mark.parametrize(
    ("killed_at_s", "is_blamed"), [(7200.0, False), (17_980.0, True), (18_000.0, True), (None, False)]
)
def test_only_a_recent_kill_for_want_of_memory_explains_a_death(
    killed_at_s: float | None, is_blamed: bool
) -> None:
    now_s = 0.0
    watch = limits.OomWatch(
        read=lambda: 4 + (killed_at_s is not None and now_s >= killed_at_s), clock=lambda: now_s
    )
    for second in range(0, 18_000, 2):
        now_s = float(second)
        watch.look()
    now_s = 18_000.0
    assert watch.has_just_killed() == is_blamed


@pytest.mark.parametrize("counts", [(4, None), (None, 4), (4, None, 9), (4, 3)])
def test_a_count_that_comes_or_goes_or_falls_is_no_kill(counts: tuple[int | None, ...]) -> None:
    left = list(counts)
    watch = limits.OomWatch(read=lambda: left.pop(0) if len(left) > 1 else left[0])
    for _ in counts:
        watch.look()
    assert not watch.has_just_killed()


def test_a_system_that_does_not_count_explains_no_death() -> None:
    assert not limits.OomWatch(read=lambda: None).has_just_killed()


def test_temporary_files_lie_where_sockets_find_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    scratch = make_scratch()
    try:
        assert scratch.parent == Path("/tmp")
    finally:
        scratch.rmdir()


def test_a_job_gets_a_clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    given = {
        "PATH": "/bin", "LC_ALL": "C.UTF-8", "AWS_SECRET_ACCESS_KEY": "x", "VOXELWORKS_TOKEN": "x", "PGPASSWORD": "x",
        "https_proxy": "http://name:password@proxy:1", "http_proxy": "http://proxy:1",
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert clean_environment(tmp_path) == {
        "PATH": "/bin", "LC_ALL": "C.UTF-8", "http_proxy": "http://proxy:1", "TMPDIR": str(tmp_path),
        "ORT_DISABLE_TELEMETRY": "1",
    }  # fmt: skip


def test_a_job_learns_the_settings_but_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(
        home=Path("home"),
        database_url="postgresql://name:hunter2@host/x",
        smtp_password="hunter2",
        import_roots={"scope": Path("images")},
    )
    told = job_settings(settings)
    assert "hunter2" not in str(told)
    assert told.keys() & SECRET_NAMES == set()
    assert (told["home"], told["import_roots"]) == (
        str(tmp_path / "home"),
        {"scope": {"path": str(tmp_path / "images"), "organizations": None}},
    )
    assert Settings(**told).import_roots == {"scope": ImportRoot(path=tmp_path / "images")}
