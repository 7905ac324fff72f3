from contextlib import suppress

import pytest
from pydantic import ValidationError

from voxelworks.errors import UnsafeReference
from voxelworks.protocol.places import Places, annotation_place, dataset_place, previews_place, upload_place
from voxelworks.settings import ImportRoot, Settings


@pytest.fixture
def places(tmp_path):
    for folder in ("datasets", "scope", "private"):
        (tmp_path / folder).mkdir()
    roots = {
        "scope": tmp_path / "scope",
        "private": {"path": tmp_path / "private", "organizations": ["neuro"]},
    }
    return Places.of(Settings(home=tmp_path, import_roots=roots, remote_hosts={"data.example.org"}))


def test_a_dataset_lies_in_the_folder_of_its_organization(places, tmp_path):
    assert places.locate(dataset_place("neuro", "cortex")) == str(tmp_path / "datasets" / "neuro" / "cortex")


@pytest.mark.parametrize(
    "rest",
    ["cortex", "", "/cortex", "neuro/", "neuro/.voxelworks", "neuro/../other", "neuro/a/b", "../x", "Neuro/a",
     "neuro/a\n", ".x/a", "neuro/..", "neuro//a", "neuro/a/"],
)  # fmt: skip
def test_nothing_but_a_dataset_is_the_place_of_one(places, rest):
    with pytest.raises(UnsafeReference, match="it is written data:ORGANIZATION/NAME"):
        places.locate(f"data:{rest}")


def test_pictures_lie_in_their_dataset_or_beside_those_of_its_organization(places, tmp_path):
    home = tmp_path / "datasets" / "neuro"
    own = previews_place("neuro", "0123456789abcdef", "data:neuro/cortex", is_linked=False)
    linked = previews_place("neuro", "0123456789abcdef", "root:scope/brain", is_linked=True)
    assert (own, linked) == ("previews:neuro/cortex", "previews:neuro/@0123456789abcdef")
    assert places.locate(own) == str(home / "cortex" / ".previews")
    assert places.locate(linked) == str(home / ".previews-0123456789abcdef")
    assert not home.exists()
    places.make_home(linked)
    assert home.is_dir()


@pytest.mark.parametrize(
    "rest",
    ["cortex", "", "neuro/", "neuro/.voxelworks", "neuro/@..", "neuro/@0123", "neuro/a/b", "../x",
     "neuro/@0123456789ABCDEF", "Neuro/a", "neuro/@0123456789abcdef/x"],
)  # fmt: skip
def test_nothing_else_is_a_place_of_pictures(places, rest):
    with pytest.raises(UnsafeReference, match="is not the place of the pictures"):
        places.locate(f"previews:{rest}")


def test_an_annotation_lies_beside_the_datasets_of_all_organizations(places, tmp_path):
    place = annotation_place("neuro", "0123456789abcdef.zip")
    assert place == "annotation:neuro/0123456789abcdef.zip"
    assert places.locate(place) == str(tmp_path / "datasets/.annotations/neuro/0123456789abcdef.zip")


@pytest.mark.parametrize(
    "rest",
    ["0123456789abcdef.zip", "neuro/", "neuro/0123.zip", "neuro/0123456789abcdef", "neuro/0123456789abcdef.exe",
     "neuro/../other/0123456789abcdef.zip", "../0123456789abcdef.zip", "Neuro/0123456789abcdef.zip",
     "neuro/0123456789abcdef.zip/x", "neuro/0123456789abcdef.zip\n"],
)  # fmt: skip
def test_nothing_else_is_the_place_of_an_annotation(places, rest):
    with pytest.raises(UnsafeReference, match="is not the place of an annotation"):
        places.locate(f"annotation:{rest}")


def test_a_dataset_that_is_a_link_out_of_its_organization_is_refused(places, tmp_path):
    (tmp_path / "datasets" / "neuro").mkdir()
    (tmp_path / "datasets" / "other" / "secret").mkdir(parents=True)
    (tmp_path / "datasets" / "neuro" / "cortex").symlink_to(tmp_path / "datasets" / "other" / "secret")
    with pytest.raises(UnsafeReference, match="through a symbolic link"):
        places.locate("data:neuro/cortex")


def test_an_operator_may_put_an_organization_on_another_disk(places, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "datasets" / "neuro").symlink_to(tmp_path / "disk")
    assert places.locate("data:neuro/cortex") == str(tmp_path / "disk" / "cortex")


def test_an_import_root_may_be_open_to_some_organizations_only(places, tmp_path):
    assert places.for_organization("neuro").locate("root:private/a") == str(tmp_path / "private" / "a")
    other = places.for_organization("other")
    assert other.locate("root:scope/a") == str(tmp_path / "scope" / "a")
    with pytest.raises(UnsafeReference) as refused:
        other.locate("root:private/a")
    assert str(refused.value) == (
        "'root:private/a': there is no import root 'private'; allowed: root:scope/..."
    )


def test_import_roots_are_read_from_paths_and_with_organizations(places, tmp_path):
    assert places.import_roots == {
        "scope": ImportRoot(path=tmp_path / "scope"),
        "private": ImportRoot(path=tmp_path / "private", organizations=frozenset({"neuro"})),
    }


@pytest.mark.parametrize(
    ("allowed", "accepted"),
    [
        ("data.org", {"https://data.org/a", "https://DATA.org:443/a", "s3://data.org/bucket/a"}),
        ("https://data.org", {"https://data.org/a", "https://DATA.org:443/a", "s3://data.org/bucket/a"}),
        ("data.org:9000", {"https://data.org:9000/a", "s3://data.org:9000/bucket/a"}),
        ("http://data.org", {"http://data.org/a"}),
        ("http://data.org:9000", {"http://data.org:9000/a"}),
        ("bucket", {"https://bucket/a"}),
        ("gs://bucket", {"gs://bucket/a"}),
        ("s3://bucket", {"s3://bucket/a"}),
        ("[::1]:9000", {"https://[::1]:9000/a"}),
    ],
)
def test_a_remote_host_is_allowed_with_its_scheme_and_port(tmp_path, allowed, accepted):
    places = Places.of(Settings(home=tmp_path, remote_hosts={allowed}))
    addresses = {
        "https://data.org/a", "https://DATA.org:443/a", "https://data.org:9000/a", "https://data.org:22/a",
        "http://data.org/a", "http://data.org:9000/a", "s3://data.org/bucket/a", "s3://data.org:9000/bucket/a",
        "gs://bucket/a", "s3://bucket/a", "https://bucket/a", "gs://data.org/a", "https://[::1]:9000/a",
        "https://data.org:99999/a", "https://other.org/a",
    }  # fmt: skip
    found = set()
    for address in addresses:
        with suppress(UnsafeReference):
            found.add(places.locate(address))
    assert found == accepted


@pytest.mark.parametrize(
    "address",
    ["https://[::1/x", "https://data.example.org\u2100/x", "https://[1.2.3]/x", "https://data.example.org:0/x",
     "https://data.example.org:99999/x", "https://@data.example.org/x", "https://me:secret@data.example.org/x",
     "https://:@data.example.org", "https://data.exa\nmple.org/x", "https://data.example.org/x\r\ny", "https:///x",
     "https://data.example.org\t/x", "HTTPS://data.example.org/x", "S3://bucket/x", "gs://data.example.org/x",
     "https://data.example.org\\@other.org/x", "https://other.org#@data.example.org/x", "https://me:secret@[::1/x"],
)  # fmt: skip
def test_addresses_that_could_be_read_in_two_ways_are_refused(places, address):
    with pytest.raises(UnsafeReference) as refused:
        places.locate(address)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "host",
    ["", "ftp://data.org", "data.org/path", "me@data.org", "data.org:0", "a b", "[:::]", "[1.2.3]", "[1.2.3.4]",
     "data.org:99999", "s3://data.org", "s3://scans/a", "gs://scans:443", "gs://"],
)  # fmt: skip
def test_what_is_no_host_cannot_be_allowed(tmp_path, host):
    with pytest.raises(ValidationError):
        Settings(home=tmp_path, remote_hosts={host})


def test_the_folder_of_an_organization_is_made_when_it_is_needed(places, tmp_path):
    for place in ("data:neuro/cortex", "data:neuro/cortex", "root:scope/a", "https://data.example.org/a"):
        places.make_home(place)
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == ["neuro"]
    (tmp_path / "datasets" / "neuro").rmdir()
    (tmp_path / "datasets").rmdir()
    with pytest.raises(OSError, match="No such file"):  # not mounted: another worker may do better
        places.make_home("data:neuro/cortex")


def test_the_files_of_an_upload_lie_beside_the_datasets_of_its_organization(places, tmp_path):
    files = tmp_path / "datasets" / "neuro" / ".uploads" / ("0" * 16) / "files"
    assert places.locate(upload_place("neuro", "0" * 16)) == str(files)
    assert places.locate(upload_place("neuro", "0" * 16, "raw/s1.tif")) == str(files / "raw" / "s1.tif")


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "neuro",
        "neuro/",
        "neuro/..",
        "../" + "0" * 16,
        "neuro/" + "0" * 15,
        "Neuro/" + "0" * 16,
        "neuro/.x",
    ],
)
def test_nothing_but_an_upload_is_the_place_of_one(places, rest):
    with pytest.raises(UnsafeReference, match="it is written upload:ORGANIZATION/ID"):
        places.locate(f"upload:{rest}")


@pytest.mark.parametrize("relative", ["..", "../other", "a/../../packed.zip", "/etc/passwd", "a\\b"])
def test_a_source_in_an_upload_stays_among_its_files(places, relative):
    with pytest.raises(UnsafeReference, match="leaves its root"):
        places.locate(f"upload:neuro/{'0' * 16}/{relative}")
