"""A server with two organizations, seen by clients and workers that were written for WEBKNOSSOS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from voxelworks import accounts, catalog, credits
from voxelworks.client import ServerInfo
from voxelworks.db import Database, open_database
from voxelworks.jobs import describe_dataset
from voxelworks.protocol.foreign import foreign_id
from voxelworks.protocol.places import Places
from voxelworks.settings import Settings
from voxelworks.testing.server import running_server

PASSWORD = "correct horse battery"
PROPERTIES: dict[str, Any] = {
    "id": {"name": "whatever", "team": ""},
    "scale": {"factor": [4, 4, 40], "unit": "nanometer"},
    "dataLayers": [
        {
            "name": name,
            "category": category,
            "boundingBox": {"topLeft": [0, 0, 0], "width": 64, "height": 32, "depth": 16},
            "elementClass": element_class,
            "dataFormat": "zarr3",
            "numChannels": 1,
            "mags": [
                {"mag": [1, 1, 1], "path": f"./{name}/1", "axisOrder": {"c": 0, "z": 1, "y": 2, "x": 3}}
            ],
        }
        for name, category, element_class in (
            ("color", "color", "uint8"),
            ("segmentation", "segmentation", "uint32"),
        )
    ],
}


@dataclass
class Face:
    """A running server, and who speaks to it."""

    info: ServerInfo
    settings: Settings
    database: Database
    tokens: dict[str, str] = field(default_factory=dict)
    """User -> API token. Olga operates the instance and owns `local`, Ada is an admin and Ben a member there; Cleo owns
    `other`."""
    user_ids: dict[str, str] = field(default_factory=dict)
    dataset_id: str = ""
    """Of `demo` in `local`, as the protocol writes it."""

    def client(self, user: str, *, prefix: str = "/api") -> httpx.Client:
        return httpx.Client(
            base_url=self.info.url + prefix, headers={"X-Auth-Token": self.tokens[user]}, trust_env=False
        )

    def anonymous(self) -> httpx.Client:
        return httpx.Client(base_url=self.info.url + "/api", trust_env=False)

    def worker(self, name: str = "wk", **rights: Any) -> Worker:
        with self.database.session() as session:
            operator = accounts.local_principal(session, entrance="program")
            key, _ = accounts.create_worker_key(
                session, operator, name, **{"high_slots": 50, "low_slots": 50, **rights}
            )
        return Worker(self.anonymous(), key)

    def find_largest(self, user: str = "ada") -> str:
        """Start the command that looks for the largest segment id; give the id of the job."""
        with self.client(user) as client:
            answer = client.post(
                f"/jobs/run/findLargestSegmentId/{self.dataset_id}", params={"layerName": "segmentation"}
            )
        assert answer.status_code == 200, answer.text
        job_id: str = answer.json()["id"]
        return job_id

    def job(self, job_id: str, user: str = "ada") -> dict[str, Any]:
        with self.client(user) as client:
            answer = client.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown


@dataclass
class Worker:
    """Speaks as a worker of WEBKNOSSOS does: it polls, and posts states."""

    http: httpx.Client
    key: str

    def poll(self) -> dict[str, list[dict[str, Any]]]:
        answer = self.http.get("/jobs/request", params={"key": self.key, "workerVersion": "24.1"})
        assert answer.status_code == 200, answer.text
        assert list(answer.json()) == ["to_run", "to_cancel"]
        orders: dict[str, list[dict[str, Any]]] = answer.json()
        return orders

    def ids(self, which: str) -> list[str]:
        return [order["job_id"] for order in self.poll()[which]]

    def post(self, job_id: str, state: str, **fields: Any) -> httpx.Response:
        status = {"latestRunId": f"{job_id}__command__1", "state": state, **fields}
        return self.http.post(f"/jobs/{job_id}/status", params={"key": self.key}, json=status)

    def say(self, job_id: str, state: str, **fields: Any) -> None:
        answer = self.post(job_id, state, **fields)
        assert (answer.status_code, answer.content) == (200, b""), answer.text

    def clear(self) -> None:
        """End whatever earlier tests left."""
        orders = self.poll()
        for order in (*orders["to_run"], *orders["to_cancel"]):
            self.post(order["job_id"], "CANCELLED")


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Face]:
    folder = tmp_path_factory.mktemp("face")
    (folder / "scope" / "raw").mkdir(parents=True)
    (folder / "scope" / "raw" / "s1.tif").write_bytes(b"1234")
    settings = Settings(
        home=folder / "home", port=0, import_roots={"scope": folder / "scope"}, credits_enabled=True
    )
    with running_server(settings) as info:
        database = open_database(settings)
        face = Face(info, settings, database)
        _add_people(face)
        _add_dataset(face, "demo")
        yield face
        database.close()


def _add_people(face: Face) -> None:
    with face.database.session() as session:
        accounts.set_up(
            session,
            name="Olga Maria Operator",
            email="olga@example.org",
            password=PASSWORD,
            organization_name="Local lab",
        )
        operator = accounts.local_principal(session, entrance="program")
        face.user_ids["olga"] = operator.user_id
        for name, role in (("ada", "admin"), ("ben", "member"), ("cleo", None)):
            user = accounts.create_user(
                session, operator, email=f"{name}@example.org", name=f"{name.capitalize()} Doe"
            )
            face.user_ids[name] = user.id
            if role is not None:
                accounts.add_member(session, operator, user.id, role, organization_id="local")
        accounts.create_organization(
            session, operator, organization_id="other", name="Other lab", owner_id=face.user_ids["cleo"]
        )
        for name, user_id in face.user_ids.items():
            principal = accounts.find_principal(session, user_id, "other" if name == "cleo" else "local")
            assert principal is not None
            scopes = ("read", "submit", "manage", "admin")
            face.tokens[name], _ = accounts.create_api_token(session, principal, "test", scopes, None)
        credits.grant(session, "local", 5_000, who="test")


def _add_dataset(face: Face, name: str) -> None:
    folder = face.settings.datasets_dir / "local" / name
    folder.mkdir(parents=True)
    (folder / "datasource-properties.json").write_text(json.dumps(PROPERTIES))
    place = f"data:local/{name}"
    with face.database.session() as session:
        dataset = catalog.register(
            session, organization_id="local", user_id=face.user_ids["ada"], name=name, place=place,
            summary=describe_dataset(place, Places.of(face.settings)), size_bytes=100,
        )  # fmt: skip
    face.dataset_id = foreign_id(dataset.id)


@pytest.fixture
def worker(face: Face) -> Iterator[Worker]:
    worker = face.worker()
    yield worker
    worker.clear()
    worker.http.close()
