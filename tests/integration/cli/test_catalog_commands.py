"""`voxelworks datasets`, `shares`, `annotations`, `tokens` and `sessions`, as a person uses them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner

from voxelworks.cli import commands
from voxelworks.client import Client, ServerInfo
from voxelworks.errors import InvalidInput, NotAllowed, NotFound, StorageFailed, TargetExists, VoxelworksError
from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.settings import Settings
from voxelworks.testing.server import running_server
from voxelworks.volumes.dataset import Dataset

BOX = Box((0, 0, 0), (8, 8, 4))
NML = (
    b"<things><parameters><experiment name='cortex'/></parameters>"
    b"<thing id='1'><nodes><node id='1' x='1' y='2' z='3'/><node id='2' x='4' y='5' z='6'/></nodes></thing></things>"
)


@dataclass
class Terminal:
    """Somebody at the machine of a server."""

    settings: Settings
    info: ServerInfo
    client: Client

    def run(self, *arguments: Any, given: str | None = None) -> str:
        """Run a command; give what it printed, or raise what it raised."""
        outcome = CliRunner().invoke(
            commands, [*map(str, arguments), "--home", str(self.settings.home)], input=given
        )
        if isinstance(outcome.exception, VoxelworksError):
            raise outcome.exception
        assert outcome.exit_code == 0, outcome.output
        return outcome.stdout

    def json(self, *arguments: Any) -> Any:
        return json.loads(self.run(*arguments, "--json"))


@pytest.fixture(scope="module")
def terminal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalog")
    scope = folder / "scope"
    for name in ("cortex", "retina"):
        dataset = Dataset.create(scope / name, VoxelSize(4, 4, 40))
        layer = dataset.add_layer("color", "color", "uint8", 1, BOX)
        layer.add_mag(MAG1, shard_zyx=(64, 64, 64)).write(BOX, np.ones((4, 8, 8), np.uint8))
        dataset.write_metadata()
    settings = Settings(
        home=folder / "home", port=0, import_roots={"scope": scope}, remote_hosts={"wk.example.org"}
    )
    with running_server(settings) as info, Client(info.url, info.token) as client:
        yield Terminal(settings, info, client)


def test_a_dataset_is_linked_renamed_published_and_deleted(terminal):
    assert terminal.run("datasets", "list") == "No datasets. Make one with `voxelworks upload`.\n"
    made = terminal.json("datasets", "link", "cortex", "root:scope/cortex")
    assert (made["name"], made["is_linked"], made["is_public"]) == ("cortex", True, False)
    assert "is named brain now" in terminal.run("datasets", "rename", "cortex", "brain")
    terminal.run("datasets", "publish", "brain")
    shown = terminal.json("datasets", "show", made["id"])
    assert (shown["name"], shown["is_public"]) == ("brain", True)
    printed = terminal.run("datasets", "show", "brain")
    assert "4,4,40 nm" in printed
    assert "linked, not copied" in printed
    assert "0,0,0,8,8,4" in printed
    terminal.run("datasets", "unpublish", "brain")
    assert [item["is_public"] for item in terminal.json("datasets", "list")] == [False]

    assert "brain is in the trash; it is deleted for good at 2" in terminal.run("datasets", "trash", "brain")
    assert terminal.json("datasets", "list") == []
    assert [item["id"] for item in terminal.json("datasets", "list", "--trashed")] == [made["id"]]
    assert terminal.run("datasets", "restore", "brain") == "brain is back\n"
    assert terminal.run("datasets", "list", "--trashed") == "The trash is empty.\n"
    terminal.run("datasets", "trash", "brain")
    with pytest.raises(
        InvalidInput, match=r"brain \(linked\) is deleted for good; add --yes to agree to that"
    ):
        terminal.run("datasets", "delete", "brain")
    assert terminal.run("datasets", "delete", "brain", "--yes") == "brain is being deleted\n"
    with pytest.raises(
        VoxelworksError, match=r"no dataset 'other' in the trash; see `voxelworks datasets list"
    ):
        terminal.run("datasets", "restore", "other")


def test_a_share_is_made_listed_and_revoked(terminal):
    terminal.run("datasets", "link", "retina", "root:scope/retina")
    assert terminal.run("shares", "list", "retina") == "retina is not shared.\n"
    made = terminal.json("shares", "create", "retina", "--for", "a reviewer", "--days", 3)
    *_, viewer, address = terminal.run("shares", "create", "retina", "--for", "a script").splitlines()
    for base in (made["address"], address):
        found = httpx.get(f"{base}/datasource-properties.json", trust_env=False)
        assert [layer["name"] for layer in found.json()["dataLayers"]] == ["color"]
    assert httpx.get(viewer, trust_env=False).status_code == 200

    listed = terminal.json("shares", "list", "retina")
    assert [share["name"] for share in listed] == ["a script", "a reviewer"]
    assert listed[1]["expires_ms"] - listed[1]["created_ms"] == 3 * 86_400_000
    terminal.run("shares", "revoke", "retina", listed[0]["id"])
    assert [share["id"] for share in terminal.json("shares", "list", "retina")] == [made["view"]["id"]]
    assert httpx.get(f"{address}/datasource-properties.json", trust_env=False).status_code == 404


def test_an_annotation_is_sent_and_comes_back_as_it_was(terminal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "spines in CA1.nml"
    file.write_bytes(NML)
    made = terminal.json("annotations", "upload", file)
    assert (made["name"], made["kind"], made["summary"]["node_count"]) == ("spines in CA1.nml", "nml", 2)
    assert "1 tree, 2 nodes" in terminal.run("annotations", "show", made["id"])

    assert terminal.run("annotations", "download", made["id"]) == "spines-in-CA1.nml\n"
    assert (tmp_path / "spines-in-CA1.nml").read_bytes() == NML
    with pytest.raises(TargetExists, match=r"spines-in-CA1\.nml exists; choose another name"):
        terminal.run("annotations", "download", made["id"])
    terminal.run("annotations", "download", made["id"], "--to", "other.nml")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "other.nml", "spines in CA1.nml", "spines-in-CA1.nml",
    ]  # fmt: skip

    terminal.run("annotations", "trash", made["id"])
    assert terminal.json("annotations", "list") == []
    assert [item["id"] for item in terminal.json("annotations", "list", "--trashed")] == [made["id"]]
    terminal.run("annotations", "restore", made["id"])
    terminal.run("annotations", "trash", made["id"])
    terminal.run("annotations", "delete", made["id"], "--yes")


def test_what_arrives_damaged_is_not_kept(terminal, tmp_path):
    file = tmp_path / "a.nml"
    file.write_bytes(NML)
    made = terminal.client.upload_annotation(file, name="../../up")
    [stored] = (terminal.settings.annotations_dir / "local").glob(f"{made.id}*")
    stored.write_bytes(NML[:-1])
    with pytest.raises(StorageFailed, match="arrived damaged"):
        terminal.run("annotations", "download", made.id, "--to", tmp_path / "b.nml")
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(InvalidInput, match=r"nothing\.nml cannot be read: No such file"):
        terminal.run("annotations", "upload", tmp_path / "nothing.nml")


def test_an_annotation_in_a_webknossos_is_asked_for(terminal):
    address = "https://wk.example.org/annotations/58135c192faeb34c0081c05d"
    printed = terminal.run(
        "annotations",
        "add",
        address,
        "--name",
        "far",
        "--no-wait",
        "--token-file",
        "-",
        given="secret-token\n",
    )
    assert "token    stored" in printed
    assert "secret-token" not in printed
    [made] = [item for item in terminal.json("annotations", "list") if item["name"] == "far"]
    assert (made["address"], made["has_token"]) == (address, True)
    with pytest.raises(InvalidInput, match="'far' is not fetched yet; see"):
        terminal.run("annotations", "download", made["id"])


def test_a_token_lets_a_program_in_until_it_is_revoked(terminal):
    made = terminal.json("tokens", "create", "analysis", "--scope", "read", "--no-end")
    *_, second = terminal.run("tokens", "create", "nightly").splitlines()
    listed = {item["name"]: item for item in terminal.json("tokens", "list")}
    assert (listed["analysis"]["scopes"], listed["analysis"]["expires_ms"]) == (["read"], None)
    assert (listed["nightly"]["scopes"], listed["nightly"]["expires_ms"] is None) == (["submit"], False)
    with Client(terminal.info.url, made["token"]) as program:
        assert program.list_annotations() is not None
        with pytest.raises(NotAllowed, match="needs admin"):
            program.list_tokens()
        terminal.run("tokens", "revoke", made["view"]["id"])
        with pytest.raises(NotAllowed):
            program.list_annotations()
    with Client(terminal.info.url, second) as program, pytest.raises(NotAllowed):
        program.create_token("another", ["read"])
    with pytest.raises(NotFound, match="you have no token"):
        terminal.run("tokens", "revoke", made["view"]["id"])


def test_browsers_are_listed_and_logged_out(terminal):
    options = {"follow_redirects": True, "trust_env": False, "headers": {"User-Agent": "Firefox"}}
    with httpx.Client(**options) as first, httpx.Client(**options) as second:
        for browser in (first, second):
            assert browser.get(terminal.info.entry_url).status_code == 200
        listed = terminal.json("sessions", "list")
        assert [item["agent"] for item in listed] == ["Firefox", "Firefox"]
        terminal.run("sessions", "end", listed[0]["id"])
        assert len(terminal.json("sessions", "list")) == 1
        terminal.run("sessions", "end", "--all")
        jobs = f"{terminal.info.url}/api/v1/jobs"
        assert [first.get(jobs).status_code, second.get(jobs).status_code] == [401, 401]
    assert terminal.run("sessions", "list") == "You are logged in with no browser.\n"
    outcome = CliRunner().invoke(commands, ["sessions", "end"])
    assert "Give either a session or --all." in outcome.output
