"""What others may know of a dataset; and what its page offers to do with it can be done, and means that dataset."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from paid_work import installed
from voxelworks import accounts, catalog
from voxelworks.client import Client
from voxelworks.db import open_database
from voxelworks.protocol.foreign import foreign_id
from voxelworks.protocol.places import Places, dataset_place
from voxelworks.protocol.views import DatasetSummary, LayerSummary
from voxelworks.settings import Settings
from voxelworks.testing.people import make_organization
from voxelworks.testing.server import running_server


@dataclass
class Site:
    """A server with an own dataset `demo`, a linked one, and a public one of others that is called `demo` too."""

    browser: httpx.Client
    client: Client
    ids: dict[str, str]

    def offers(self, which: str) -> dict[str, str]:
        """Give what the page of a dataset offers: workflow and address."""
        page = self.browser.get(f"/datasets/{self.ids[which]}").text
        found = re.findall(r'href="(/workflows/(\w+)/new\?[^"]*)"', page)
        return {name: html.unescape(address) for address, name in found}

    def chosen(self, address: str) -> tuple[list[tuple[str, str]], str]:
        """Give the dataset that a form has chosen, value and text, and its layers."""
        page = self.browser.get(address).text
        chosen = re.findall(r'<option value="([^"]*)" selected>([^<]*)</option>', page)
        return chosen, " ".join(re.findall(r"labels_of_\w+", page))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "scope").mkdir()
    settings = Settings(home=tmp_path / "home", port=0, import_roots={"scope": tmp_path / "scope"})
    with (
        installed(),
        running_server(settings) as info,
        Client(info.url, info.token) as client,
        httpx.Client(base_url=info.url, headers={"Origin": info.url}, trust_env=False) as browser,
        closing(open_database(settings)) as database,
    ):
        browser.get("/", params={"token": info.token})
        with database.session() as session:
            other = make_organization(session, "neuro")
            own = _register(session, "local")
            public = _register(session, "neuro")
            catalog.set_public(session, public, True, by=other)
            linked = catalog.link_dataset(
                session, by=accounts.local_principal(session), name="linked", place="root:scope/raw",
                summary=_summary("linked"), places=Places.of(settings),
            )  # fmt: skip
        yield Site(browser, client, {"own": own, "public": public, "linked": linked.id})


def test_only_what_can_work_on_a_dataset_is_offered(site: Site):
    elsewhere = [
        "agglomerate",
        "apply_mapping",
        "downsample_volume_annotation",
        "evaluate_segmentation",
        "export_ome_zarr",
        "export_tiff",
        "make_segmented",
        "materialize_volume_annotation",
    ]
    assert {which: sorted(site.offers(which)) for which in site.ids} == {
        "own": [
            "agglomerate",
            "apply_mapping",
            "compute_segment_index_file",
            "compute_segment_statistics",
            "describe",
            "downsample",
            "downsample_volume_annotation",
            "evaluate_segmentation",
            "export_ome_zarr",
            "export_tiff",
            "find_largest_segment_id",
            "import_training_labels",
            "make_segmented",
            "materialize_volume_annotation",
            "segment",
        ],
        "linked": sorted(["describe", *elsewhere]),
        "public": elsewhere,
    }


@pytest.mark.parametrize(
    ("which", "value", "text"),
    [("own", "demo", "demo"), ("linked", "linked", "linked"), ("public", None, "demo (of neuro)")],
)
def test_the_form_that_is_offered_has_chosen_that_dataset(site: Site, which, value, text):
    address = site.offers(which)["make_segmented"]
    chosen, layers = site.chosen(address)
    organization = {"own": "local", "linked": "linked", "public": "neuro"}[which]
    assert chosen[0] == (value or site.ids["public"], text)
    assert set(layers.split()) == {f"labels_of_{organization}"}
    form = dict(chosen[:1] and [("dataset", chosen[0][0])], layer=f"labels_of_{organization}", mag="1")
    answer = site.browser.post(
        "/workflows/make_segmented/new", data={**form, "target": "made", "action": "submit"}
    )
    assert answer.status_code == 303, answer.text
    job = site.client.show(answer.headers["location"].rpartition("/")[2]).job
    assert job.params["layer"]["dataset"] == chosen[0][0]


def test_a_form_that_adds_lists_only_datasets_that_can_be_added_to(site: Site):
    page = site.browser.get(f"/workflows/segment/new?dataset={site.ids['public']}").text
    picker = re.search(r'(?s)<select id="input-dataset".*?</select>', page)
    offered = re.findall(r'<option value="([^"]*)"[^>]*>[^<]*</option>', picker[0])
    assert [value for value in offered if value] == ["demo", site.ids["public"]]
    assert f"{site.ids['public']} (not in the list)" in page


def _register(session, organization_id: str) -> str:
    return catalog.register(
        session, organization_id=organization_id, user_id=None, name="demo",
        place=dataset_place(organization_id, "demo"), summary=_summary(organization_id),
    ).id  # fmt: skip


def _summary(name: str) -> DatasetSummary:
    layer = LayerSummary(
        name=f"labels_of_{name}",
        category="segmentation",
        dtype="uint32",
        channel_count=1,
        box="0,0,0,8,8,8",
        mags=("1",),
    )
    return DatasetSummary(voxel_size="4,4,40", layers=(layer,))


def test_where_a_public_dataset_of_others_lies_is_not_told(tmp_path: Path):
    settings = Settings(
        home=tmp_path / "home", port=0, import_roots={"scope": tmp_path}, remote_hosts={"data.example.org"}
    )
    places = {"near": "root:scope/elsewhere", "far": "https://data.example.org/elsewhere"}
    with running_server(settings) as info, closing(open_database(settings)) as database:
        with database.session() as session:
            owner = make_organization(session, "neuro")
            for name, place in places.items():
                linked = catalog.link_dataset(
                    session,
                    by=owner,
                    name=name,
                    place=place,
                    summary=_summary(name),
                    places=Places.of(settings),
                )
                catalog.set_public(session, linked.id, True, by=owner)
            token, _ = accounts.create_api_token(session, owner, "own", ["read"], None)
        told = {}
        for who, bearer in (("owner", token), ("others", info.token)):
            with httpx.Client(
                base_url=info.url, headers={"Authorization": f"Bearer {bearer}"}, trust_env=False
            ) as browser:
                listed = browser.get("/api/v1/datasets?include_public=true").json()
                pages = [
                    browser.get(address).text
                    for item in listed
                    for address in (
                        f"/api/v1/datasets/{item['id']}", f"/api/datasets/{foreign_id(item['id'])}",
                        f"/datasets/{item['id']}",
                    )
                ]  # fmt: skip
                told[who] = ({item["name"]: item["place"] for item in listed}, "elsewhere" in "".join(pages))
    assert told == {"owner": (places, True), "others": ({"near": "", "far": ""}, False)}
