"""A server with a small import root, a person's client and a pretending worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from voxelworks.client import Client, ServerInfo
from voxelworks.settings import Settings
from voxelworks.testing.server import PretendWorker, running_server


@dataclass
class Served:
    """A running server, seen from outside."""

    info: ServerInfo
    settings: Settings
    client: Client
    browser: httpx.Client
    """Let in, as a browser is."""
    workers: list[PretendWorker] = field(default_factory=list)

    def worker(self, name: str = "pretender", **workflows: int) -> PretendWorker:
        joined = PretendWorker.join(self.info, self.settings, name=name, **workflows)
        self.workers.append(joined)
        return joined

    def anonymous(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.info.url, headers=headers, trust_env=False)

    def convert(self, target: str) -> str:
        """Submit a conversion; give the id of the job."""
        params = {"layers": [{"source": "root:scope/run1"}], "target": target, "voxel_size": "4,4,40"}
        return self.client.submit("convert", params).id


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    settings = Settings(home=folder / "home", port=0, import_roots={"scope": make_scope(folder)})
    with (
        running_server(settings) as info,
        Client(info.url, info.token) as client,
        httpx.Client(base_url=info.url, headers={"Origin": info.url}, trust_env=False) as browser,
    ):
        browser.get("/", params={"token": info.token})
        served = Served(info, settings, client, browser)
        yield served
        for worker in served.workers:
            worker.client.close()


def make_scope(folder: Path) -> Path:
    scope = folder / "scope"
    (scope / "run1").mkdir(parents=True)
    for name in ("s10.tif", "s2.tif", ".hidden"):
        (scope / "run1" / name).write_bytes(b"1234")
    (scope / "empty").mkdir()
    (folder / "outside.tif").write_bytes(b"1")
    (scope / "escape.tif").symlink_to(folder / "outside.tif")
    return scope
