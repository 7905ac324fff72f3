"""Images are linked where workers of WEBKNOSSOS look for them, and what they leave is put away."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxelworks.jobs import ForeignOrder, Remains
from voxelworks.protocol.places import Places
from voxelworks.server.wk.images import lay_out, put_away
from voxelworks.settings import ImportRoot


@pytest.fixture
def places(tmp_path: Path) -> Places:
    scope = tmp_path / "scope"
    (scope / "run1").mkdir(parents=True)
    (scope / "run1" / "s1.tif").write_bytes(b"1")
    (scope / "stack.tif").write_bytes(b"2")
    (tmp_path / "datasets").mkdir()
    return Places(tmp_path / "datasets", {"scope": ImportRoot(path=scope)}, frozenset({"example.org"}))


def order(**sources: str) -> ForeignOrder:
    layers = [{"source": source, "layer_name": name, "category": "color"} for name, source in sources.items()]
    return ForeignOrder(
        root_id="0" * 16, workflow="convert", params={"layers": layers, "target": "made"},
        places={"made": "data:local/made", **{source: source for source in sources.values()}},
        organization_id="local", user_token="",
    )  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for layer in sorted(folder.iterdir())
        for path in sorted(layer.iterdir())
    }


def test_each_layer_is_a_folder_of_images(places: Places):
    wanted = order(color="root:scope/run1", stack="root:scope/stack.tif")
    for _ in range(2):
        lay_out(wanted, places)
        linked = files(places.data_dir / "local" / ".forConversion" / "made")
        assert linked == {"color/s1.tif": b"1", "stack/stack.tif": b"2"}


def test_links_follow_the_latest_job_of_a_name(places: Places, tmp_path: Path):
    lay_out(order(color="root:scope/run1"), places)
    (tmp_path / "scope" / "run2").mkdir()
    (tmp_path / "scope" / "run2" / "s9.tif").write_bytes(b"9")
    lay_out(order(color="root:scope/run2"), places)
    assert files(places.data_dir / "local" / ".forConversion" / "made") == {"color/s9.tif": b"9"}


@pytest.mark.parametrize("source", ["https://example.org/images", "root:scope/../../etc", "root:gone/run1"])
def test_what_cannot_be_linked_is_left_out(places: Places, source: str):
    lay_out(order(color=source), places)
    assert not (places.data_dir / "local" / ".forConversion" / "made").exists()


def test_roots_of_other_organizations_are_not_linked(places: Places, tmp_path: Path):
    root = ImportRoot(path=tmp_path / "scope", organizations=frozenset({"other"}))
    lay_out(order(color="root:scope/run1"), Places(places.data_dir, {"scope": root}))
    assert not (places.data_dir / "local" / ".forConversion").exists()


def test_workflows_that_read_datasets_need_no_images(places: Places):
    lay_out(
        ForeignOrder(
            "0" * 16, "find_largest_segment_id", {"layer": {"dataset": "demo", "layer": "s"}},
            {"demo": "data:local/demo"}, "local", "",
        ),
        places,
    )  # fmt: skip
    assert list(places.data_dir.iterdir()) == []


@pytest.mark.parametrize("is_half_made", [True, False])
def test_only_what_is_nobodys_is_moved_away(places: Places, is_half_made: bool):
    lay_out(order(color="root:scope/run1"), places)
    made = places.data_dir / "local" / "made"
    made.mkdir()
    (made / "chunk").write_bytes(b"1")
    for _ in range(2):
        put_away(Remains("data:local/made", is_half_made), places)
    assert made.exists() != is_half_made
    aside = list((places.data_dir / "local" / ".voxelworks").glob("made.*/chunk"))
    assert len(aside) == is_half_made
    assert not (places.data_dir / "local" / ".forConversion" / "made").exists()
    assert (places.import_roots["scope"].path / "run1" / "s1.tif").exists()


def test_links_of_an_earlier_job_go(places: Places):
    lay_out(order(color="root:scope/run1", other="root:scope/stack.tif"), places)
    lay_out(order(color="root:scope/stack.tif"), places)
    assert files(places.data_dir / "local" / ".forConversion" / "made") == {"color/stack.tif": b"2"}
    lay_out(order(color="root:scope/run1"), places)
    assert files(places.data_dir / "local" / ".forConversion" / "made") == {"color/s1.tif": b"1"}
    assert sorted(path.name for path in (places.import_roots["scope"].path / "run1").iterdir()) == ["s1.tif"]


def test_nothing_but_links_is_removed_where_webknossos_unpacks_uploads(places: Places):
    upload = places.data_dir / "local" / ".forConversion" / "made"
    (upload / "raw").mkdir(parents=True)
    (upload / "raw" / "stack.tif").write_bytes(b"3")
    (upload / "read-me.txt").write_bytes(b"4")
    lay_out(order(color="root:scope/run1", raw="root:scope/stack.tif"), places)
    put_away(Remains("data:local/made", is_half_made=True), places)
    found = {str(path.relative_to(upload)) for path in upload.rglob("*")}
    assert found == {"raw", "raw/stack.tif", "read-me.txt"}
    assert (upload / "raw" / "stack.tif").read_bytes() == b"3"


def test_a_link_in_the_way_is_removed_and_what_it_leads_to_stays(places: Places):
    base = places.data_dir / "local"
    (base / "good").mkdir(parents=True)
    (base / "made").symlink_to(base / "good")
    put_away(Remains("data:local/made", is_half_made=True), places)
    assert [path.name for path in base.iterdir()] == ["good"]


def test_what_cannot_be_moved_stays(places: Places, caplog: pytest.LogCaptureFixture):
    made = places.data_dir / "local" / "made"
    made.mkdir(parents=True)
    (places.data_dir / "local" / ".voxelworks").write_bytes(b"")
    put_away(Remains("data:local/made", is_half_made=True), places)
    assert made.exists()
    assert "what is left at data:local/made stays" in caplog.text
