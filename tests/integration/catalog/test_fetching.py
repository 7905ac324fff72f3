"""Annotations come from a pretended WEBKNOSSOS, whatever it and the network between do; its token is seen nowhere."""

import io
import logging
import zipfile
from copy import deepcopy
from dataclasses import replace

import pytest
from sqlalchemy import update

from voxelworks import catalog
from voxelworks.catalog._tables import AnnotationRow
from voxelworks.db import SecretBox
from voxelworks.errors import InvalidAnnotation, InvalidInput, InvalidParams, NotFound, UnsafeReference
from voxelworks.testing.far_webknossos import ANNOTATION_ID, TOKEN, far_webknossos
from voxelworks.testing.listener import listener

from .catalog_stock import ADA, BOB

NML = (
    b"<things><parameters><experiment name='cortex'/></parameters>"
    b"<volume id='0' name='Volume' location='data_0.zip'%s/></things>"
)


def packed(tag=b""):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.nml", NML % tag)
        archive.writestr("data_0.zip", b"")
    return stream.getvalue()


@pytest.fixture
def far():
    with far_webknossos() as far:
        far.file = packed()
        yield far


@pytest.fixture
def near(stock, far):
    """The catalog, with the pretended server on the operator's list."""
    allowed = {"remote_hosts": {*stock.settings.remote_hosts, far.url}, "outgoing_networks": {"127.0.0.0/8"}}
    return replace(stock, settings=stock.settings.model_copy(update=allowed))


def add(near, address, token=TOKEN, by=ADA, **given):
    box = SecretBox(near.settings.secret_key_file)
    return near.call(
        catalog.add_far_annotation, box, by=by, address=address, token=token, places=near.places, **given
    )


def fetch(near, **given):
    box = SecretBox(near.settings.secret_key_file)
    return catalog.fetch_next(near.database, box, places=near.places, settings=near.settings, **given)


def see(near, made):
    return near.look(catalog.find_annotation, made.id, by=ADA)


def hurry(near):
    """Let the pause before the next try be over."""
    with near.database.session() as session:
        session.execute(update(AnnotationRow).values(fetch_due_ms=AnnotationRow.fetch_due_ms - 10**6))


def test_an_annotation_is_fetched_and_is_like_an_uploaded_one(near, far):
    made = add(near, far.address + "/view?x=1#3,4,5", f" {TOKEN} ")
    assert (made.kind, made.is_fetching, made.has_token, made.name) == (
        "webknossos", True, True, f"annotation {ANNOTATION_ID}",
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="is being fetched; wait until it is here"):
        catalog.place_of_annotation(made)
    assert fetch(near) == made.id
    found = see(near, made)
    assert (found.kind, found.name, found.address, found.size_bytes) == (
        "zip", "Proofread axons", far.address, len(far.file),
    )  # fmt: skip
    assert (found.is_fetching, found.fetch_problem, found.streams_at) == (False, None, None)
    assert found.fetched_ms >= found.created_ms
    assert catalog.annotation_file(found, near.settings).read_bytes() == far.file
    assert catalog.place_of_annotation(found) == f"annotation:neuro/{made.id}.zip"
    assert fetch(near) is None
    assert {request.headers.get("x-auth-token") for request in far.requests} == {TOKEN}
    assert not any(TOKEN in request.path for request in far.requests)
    files = [path.name for path in (near.settings.annotations_dir / "neuro").iterdir()]
    assert files == [f"{made.id}.zip"]


def test_a_short_link_and_a_public_annotation(near, far):
    far.token = None
    made = add(near, f"{far.url}/links/aB3", token=None, name="Mine")
    fetch(near)
    found = see(near, made)
    assert (found.name, found.address, found.has_token, found.kind) == ("Mine", far.address, False, "zip")
    assert all("x-auth-token" not in request.headers for request in far.requests)


def test_the_same_address_is_fetched_anew_into_the_same_entry(near, far):
    dataset = near.register()
    made = add(near, far.address)
    fetch(near)
    far.file = NML.replace(b" location='data_0.zip'%s", b" editableMappingLocation='m'")
    again = add(near, far.address, token=None, name="Better", dataset="cortex")
    assert (again.id, again.is_fetching, again.kind, again.has_token) == (made.id, True, "zip", True)
    with pytest.raises(InvalidInput, match="is being fetched anew"):
        catalog.place_of_annotation(again)
    fetch(near)
    found = see(near, made)
    assert (found.kind, found.name, found.dataset_id, found.streams_at) == (
        "nml", "Better", dataset.id, far.streams_at,
    )  # fmt: skip
    files = [path.name for path in (near.settings.annotations_dir / "neuro").iterdir()]
    assert files == [f"{made.id}.nml"]
    assert add(near, far.address, by=BOB).id != made.id


def test_a_cut_download_and_a_server_in_trouble_are_tried_again(near, far):
    far.cut_downloads = 1
    far.statuses = {"/info": [200, 503, 200]}
    made = add(near, far.address)
    problems = []
    for _ in range(2):
        fetch(near)
        found = see(near, made)
        problems.append(found.fetch_problem)
        assert (found.is_fetching, found.kind) == (True, "webknossos")
        assert fetch(near) is None  # not at once
        hurry(near)
    assert "the download broke off after" in problems[0]
    assert problems[1] == f"127.0.0.1:{far.heard.port} answers 503: it has trouble itself"
    fetch(near)
    assert (see(near, made).kind, see(near, made).fetch_problem) == ("zip", None)


def test_it_is_given_up_after_some_tries(near, far):
    far.statuses = {"/info": [500] * 9}
    made = add(near, far.address)
    tries = 0
    while see(near, made).is_fetching:
        hurry(near)
        assert fetch(near) == made.id
        tries += 1
    assert tries == 5
    with pytest.raises(
        InvalidInput, match=r"is not fetched \(127.0.0.1:\d+ answers 500.*; fetch it on its page"
    ):
        catalog.require_file(see(near, made))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"token": "another"}, "does not let the token see annotation 5f0123456789abcdef012345 (403)"),
        ({"statuses": {"/info": [401]}}, "does not let the token see annotation"),
        ({"statuses": {"/download": [404]}}, "knows no annotation 5f0123456789abcdef012345 (404), or the token may"),
        ({"statuses": {"/info": [400]}}, "(400: not for ***)"),
        ({"info": b"<html>"}, "does not answer like a WEBKNOSSOS; check the address"),
        ({"info": b'{"typ": "Explorational"}'}, "does not answer like a WEBKNOSSOS"),
        ({"file": b"<html>hello</html>"}, "the first element is <html> instead of <things>"),
        ({"file": b""}, "no proper XML"),
        ({"redirect_to": "http://169.254.169.254/latest"}, "is not on this server's list of allowed remote hosts"),
        ({"redirect_to": "/api/annotations/5f0123456789abcdef012345/download"}, "redirects over and over"),
        ({"redirect_to": "file:///etc/passwd"}, "is not a place that this server reads"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_said_at_once(near, far, change, problem, caplog):
    caplog.set_level(logging.DEBUG)
    for name, value in deepcopy(change).items():  # the server uses its statuses up
        setattr(far, name, value)
    made = add(near, far.address)
    fetch(near)
    found = see(near, made)
    assert problem in found.fetch_problem
    assert (found.is_fetching, found.kind) == (False, "webknossos")
    assert TOKEN not in found.model_dump_json() + caplog.text
    folder = near.settings.annotations_dir / "neuro"
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_token_does_not_follow_to_another_server(near, far):
    with listener() as other:
        allowed = {"remote_hosts": {*near.settings.remote_hosts, f"http://localhost:{other.port}"}}
        near = replace(near, settings=near.settings.model_copy(update=allowed))
        far.redirect_to = f"http://localhost:{other.port}/elsewhere"
        add(near, far.address)
        fetch(near)
    assert [request.path for request in other.requests] == ["/elsewhere"]
    assert "x-auth-token" not in other.requests[0].headers


def test_private_networks_are_not_reached_even_if_the_host_is_listed(near, far):
    near = replace(near, settings=near.settings.model_copy(update={"outgoing_networks": frozenset()}))
    made = add(near, far.address)
    fetch(near)
    assert "is not on the public internet" in see(near, made).fetch_problem
    assert far.heard.connections == 0


def test_a_huge_file_and_one_without_room_are_refused(near, far):
    far.file = bytes(10_000)
    for limits, problem in (
        ({"annotation_bytes_max": 1000}, "the annotation is larger than"),
        ({"storage_bytes_max": 5000}, "takes more than the 5.0 kB|takes more than the"),
    ):
        small = replace(near, settings=near.settings.model_copy(update=limits))
        made = add(small, far.address)
        fetch(small)
        assert problem.rpartition("|")[2] in see(small, made).fetch_problem


def test_a_failed_fetch_leaves_the_old_file(near, far):
    made = add(near, far.address)
    fetch(near)
    far.token = "another"
    box = SecretBox(near.settings.secret_key_file)
    near.call(catalog.fetch_annotation, box, made.id, by=ADA)
    fetch(near)
    found = see(near, made)
    assert (found.kind, found.is_fetching) == ("zip", False)
    assert "does not let the token see" in found.fetch_problem
    catalog.place_of_annotation(found)
    near.call(catalog.fetch_annotation, box, made.id, by=ADA, token="another")
    fetch(near)
    assert see(near, made).fetch_problem is None


def test_a_server_that_stops_hands_the_wish_over(near, far):
    made = add(near, far.address)
    fetch(near, is_closing=lambda: True)
    assert (see(near, made).is_fetching, far.count("/download")) == (True, 0)
    fetch(near)
    assert see(near, made).kind == "zip"


def test_what_somebody_asked_anew_meanwhile_is_left_to_the_next(near, far):
    box = SecretBox(near.settings.secret_key_file)
    made = add(near, far.address)
    asked = []

    def ask_anew():
        if far.count("/info") and not asked:
            asked.append(near.call(catalog.fetch_annotation, box, made.id, by=ADA))
        return False

    fetch(near, is_closing=ask_anew)
    assert (len(asked), see(near, made).kind, see(near, made).is_fetching) == (1, "webknossos", True)
    fetch(near)
    assert see(near, made).kind == "zip"


def test_trashed_and_uploaded_ones_are_not_fetched(near, far):
    box = SecretBox(near.settings.secret_key_file)
    made = add(near, far.address)
    near.call(catalog.trash_annotation, made.id, by=ADA, settings=near.settings)
    assert fetch(near) is None
    stored = catalog.store_annotation(io.BytesIO(packed()), organization_id="neuro", settings=near.settings)
    own = near.call(catalog.add_annotation_file, stored, by=ADA, name="mine", settings=near.settings)
    with pytest.raises(InvalidInput, match="was uploaded"):
        near.call(catalog.fetch_annotation, box, own.id, by=ADA)
    for annotation in (made, own):
        with pytest.raises(NotFound):
            near.call(catalog.fetch_annotation, box, annotation.id, by=BOB)


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("https://wk.example.org/datasets/0123456789abcdef01234567", InvalidAnnotation),
        ("wk.example.org/annotations/0123456789abcdef01234567", InvalidAnnotation),
        ("file:///annotations/0123456789abcdef01234567", InvalidAnnotation),
        ("https://wk.example.org/annotations/0123456789abcdef01234567?token=secret", InvalidAnnotation),
        ("http://wk.example.org/annotations/0123456789abcdef01234567", UnsafeReference),
        ("https://evil.example.org/annotations/0123456789abcdef01234567", UnsafeReference),
        ("https://169.254.169.254/annotations/0123456789abcdef01234567", UnsafeReference),
        ("https://me:secret@wk.example.org/annotations/0123456789abcdef01234567", UnsafeReference),
    ],
)
def test_addresses_that_must_not_be_read_are_refused(stock, address, error):
    with pytest.raises(error) as refused:
        add(stock, address, "t0ken")
    assert "secret" not in str(refused.value)
    assert stock.look(catalog.list_annotations, by=ADA) == ()


def test_a_token_is_one_line_and_kept_encrypted(stock):
    address = "https://wk.example.org/annotations/Task/0123456789abcdef01234567/view"
    with pytest.raises(InvalidParams) as refused:
        add(stock, address, "two\r\nX-Lines: yes")
    assert "Lines" not in str(refused.value)
    made = add(stock, address, TOKEN)
    assert made.address == "https://wk.example.org/annotations/Task/0123456789abcdef01234567"
    box = SecretBox(stock.settings.secret_key_file)
    for organization, expected in (("neuro", TOKEN), ("other", None)):
        found = stock.look(catalog.annotation_token, box, made.id, organization_id=organization)
        assert found == expected
    with stock.database.engine.connect() as connection:
        stored = connection.exec_driver_sql("SELECT sealed_token FROM annotations").scalar_one()
    assert TOKEN not in stored + made.model_dump_json()
