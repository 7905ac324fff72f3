"""What is refused on a network file system leaves nothing there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from voxelworks.cli.demo import Demo
from voxelworks.cli.serve import run_server
from voxelworks.db import Mount, _mounts
from voxelworks.errors import NetworkFileSystem
from voxelworks.settings import Settings


def serve(settings: Settings) -> None:
    run_server(settings, worker=None)


def demo(settings: Settings) -> None:
    Demo(settings, console=Console(quiet=True), is_once=True).run()


@pytest.mark.parametrize("start", [serve, demo])
def test_a_server_that_would_keep_sqlite_on_a_network_file_system_writes_nothing(
    start: Callable[[Settings], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounts, "_mounts_here", lambda: [Mount("/", "ext4"), Mount(str(tmp_path), "nfs4")])
    with pytest.raises(NetworkFileSystem, match=r"a network file system \(nfs4\)"):
        start(Settings(home=tmp_path / "home"))
    assert list(tmp_path.iterdir()) == []
