"""Models on a server with a worker of its own: sent, imported, named, shared and deleted, and those of a machine."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save

from small_networks import ZOO, small_facts, small_network, zoo_package
from voxelworks.ai.package import read_package, write_package
from voxelworks.cli import commands
from voxelworks.cli._embedded import EmbeddedWorker
from voxelworks.client import Client
from voxelworks.errors import IllegalTransition, InvalidInput, ModelNotFound
from voxelworks.protocol.models import TRAINED_WEIGHTS
from voxelworks.settings import Settings
from voxelworks.testing.server import running_server

TOLD = {
    "task": "instances", "structure": "mitochondria", "distance_scale_nm": "100", "outputs": "foreground,distance",
}  # fmt: skip


@dataclass
class Site:
    """A server with a worker, and a model package beside it."""

    settings: Settings
    client: Client
    browser: httpx.Client
    folder: Path

    def ended(self, job_id: str):
        for view in self.client.watch(job_id):
            last = view
        return last

    def command(self, *arguments: str) -> str:
        result = CliRunner().invoke(commands, [*arguments, "--home", str(self.settings.home)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("models")
    settings = Settings(home=folder / "home", cache_dir=folder / "cache", port=0, poll_s=0.1, slots=1)
    settings.datasets_dir.mkdir(parents=True)
    trained = {TRAINED_WEIGHTS: save({"bias": np.arange(5, dtype=np.float32)})}
    write_package(folder / "package", small_facts(), small_network(), extra=trained)
    write_package(settings.models_dir / "shipped", small_facts(title="For all"), small_network())
    with (
        running_server(settings) as info,
        Client(info.url, info.token) as client,
        httpx.Client(base_url=info.url, headers={"Origin": info.url}, trust_env=False, timeout=60) as browser,
    ):
        browser.get("/", params={"token": info.token})
        worker = EmbeddedWorker(settings)
        worker.start()
        try:
            yield Site(settings, client, browser, folder)
        finally:
            worker.stop()


def test_a_file_from_the_browser_leads_to_the_dialog_and_becomes_a_model(site):
    archive = shutil.make_archive(str(site.folder / "zoo"), "zip", zoo_package(site.folder / "zoo"))
    with open(archive, "rb") as stream:
        answer = site.browser.post("/models/upload", files={"file": ("My mitos (1).zip", stream)})
    assert answer.status_code == 303
    assert re.fullmatch(
        r"/workflows/import_model/new\?source=upload%3A[0-9a-f]{16}&target=My-mitos-1",
        answer.headers["location"],
    )
    dialog = site.browser.get(answer.headers["location"]).text
    source = re.search(r'value="(upload:[0-9a-f]{16})"', dialog)[1]
    done = site.ended(site.client.submit("import_model", {"source": source, "target": "mitos", **TOLD}).id)
    assert (done.state, done.publication, done.result.place) == (
        "succeeded",
        "published",
        "model:local/mitos/1",
    )
    made = read_package(site.settings.datasets_dir / "local" / ".models" / "mitos" / "1")
    assert (made.facts.title, (made.folder / "original-rdf.yaml").read_text()) == ("Zoo network", ZOO)
    page = site.browser.get(f"/jobs/{done.id}").text
    assert f'href="/models/{site.client.show_model("mitos").id}"' in page


def test_what_is_no_file_of_a_model_is_said_on_the_page(site):
    empty = site.browser.post("/models/upload", files={"file": ("a.zip", b"")})
    assert (empty.status_code, "No file was chosen, or it is empty" in empty.text) == (422, True)
    broken = site.browser.post("/models/upload", files={"file": ("a.zip", b"PK\x03\x04" + bytes(40))})
    assert (broken.status_code, "no whole zip file" in broken.text) == (422, True)


def test_models_from_the_command_line(site):
    package = str(site.folder / "package")
    site.command("models", "upload", package, "--name", "cells", "--fact", "title=Better cells", "--wait")
    found = {model["name"]: model for model in json.loads(site.command("models", "list", "--json"))}
    assert [item["number"] for item in found["cells"]["versions"]] == [1]
    made = site.settings.datasets_dir / "local" / ".models" / "cells" / "1"
    assert (made / TRAINED_WEIGHTS).read_bytes() == Path(package, TRAINED_WEIGHTS).read_bytes()
    assert found["shipped"]["organization_id"] is None
    assert [model.name for model in site.client.list_models(task="affinities")] == ["neurons"]
    shown = site.command("models", "show", "cells")
    for part in (
        "Better cells",
        "CC-BY-4.0 Free to use with attribution.",
        "4,4,20 to 16,16,60 nm",
        "Versions",
    ):
        assert part in shown
    with pytest.raises(InvalidInput, match="'nonsense' is no fact; write NAME=VALUE, with one of border"):
        site.command("models", "upload", package, "--fact", "nonsense")
    assert "is named organelles now" in site.command("models", "rename", "cells", "organelles")
    site.command("models", "comment", "organelles", "Use it for everything.")
    assert site.client.show_model("organelles").comment == "Use it for everything."
    assert "shared with nobody" in site.command("models", "share", "organelles", "--nobody")
    with pytest.raises(ModelNotFound, match="no version 2"):
        site.command("models", "delete", "organelles", "--version", "2", "--yes")
    assert "version 1 deleted" in site.command("models", "delete", "organelles", "--version", "1", "--yes")
    assert not (site.settings.datasets_dir / "local" / ".models" / "cells").exists()
    with pytest.raises(ModelNotFound):
        site.client.show_model("organelles")


def test_a_model_that_a_job_makes_is_not_deleted(site):
    site.browser.post("/api/v1/operator/queue/pause", json={})
    try:
        sent = site.client.upload({"w.onnx": site.folder / "package" / "weights.onnx"})
        job = site.client.submit("import_model", {"source": sent.ref, "target": "mitos"})
        with pytest.raises(IllegalTransition, match="a job works with model 'mitos'"):
            site.client.delete_model("mitos")
        model_id = site.client.show_model("mitos").id
        page = site.browser.post(f"/models/{model_id}/delete")
        assert (page.status_code, "A job works with model" in page.text) == (409, True)
    finally:
        site.client.cancel(job.id)
        site.browser.post("/api/v1/operator/queue/resume", json={})
    assert site.browser.post(f"/models/{model_id}/delete").headers["location"] == "/models?done=deleted"


def test_models_of_this_machine_need_no_server(site):
    home = site.folder / "lonely"
    alone = Site(Settings(home=home), site.client, site.browser, site.folder)
    assert "shipped" not in alone.command("models", "list")
    archive = shutil.make_archive(str(site.folder / "Mito v2"), "zip", site.folder / "package")
    assert "Mito-v2 is installed: Small mitochondria, licence CC-BY-4.0" in alone.command(
        "models", "add", archive
    )
    assert "Mito-v2" in alone.command("models", "list")
    made = read_package(home / "models" / "Mito-v2")
    assert made.facts.title == "Small mitochondria"
    trained = site.folder / "package" / TRAINED_WEIGHTS
    assert (made.folder / TRAINED_WEIGHTS).read_bytes() == trained.read_bytes()
    assert "Free to use with attribution" in alone.command("models", "show", "Mito-v2")
    with pytest.raises(ModelNotFound, match="installed are Mito-v2"):
        alone.command("models", "show", "other")
    assert "Mito-v2 is removed" in alone.command("models", "remove", "Mito-v2", "--yes")
    assert not (home / "models" / "Mito-v2").exists()
    with pytest.raises(ModelNotFound):
        alone.command("models", "remove", "Mito-v2", "--yes")


def test_pages_show_licence_facts_and_scores(site):
    listed = site.browser.get("/models").text
    assert "shipped" in listed
    page = site.browser.get("/models/shipped").text
    for part in ("CC-BY-4.0", "Free to use with attribution.", "8 × 8 × 30 nm", "Nothing was measured"):
        assert part in page
    assert "Manage" not in page
    assert site.browser.get("/models/nothing").status_code == 404
