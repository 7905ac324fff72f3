"""Jobs that make the pictures of datasets, and which jobs have worked on a dataset."""

import json

import pytest

from voxelworks import catalog, jobs
from voxelworks.errors import DatasetNotFound, NotAllowed, NotFound, UnsafeReference
from voxelworks.protocol.messages import NewJob, SealedResult
from voxelworks.testing.queues import DEMO, LARGEST_ID

NAME = "0123456789abcdef" * 2
CORTEX = SealedResult(kind="dataset", place="data:local/cortex", value={"dataset": "cortex"})


def _drawn(place):
    return SealedResult(kind="previews", place=place, value={"dataset": "demo", "layers": ["segmentation"]})


def _draw(queue, folder):
    """Put pictures where a worker would."""
    folder.mkdir(parents=True)
    slices = [
        {"plane": plane, "box": "0,0,32,64,64,1", "file": f"{NAME}.webp", "width": 64, "height": 64}
        for plane in ("xy", "xz", "yz")
    ]
    drawn = {"slices": slices, "thumbnail": slices[0]}
    layers = {"segmentation": drawn, "gone": drawn}
    (folder / "index.json").write_text(json.dumps({"version": 1, "layers": layers}))
    (folder / f"{NAME}.webp").write_bytes(b"picture")


def _link(queue, by="ada"):
    (queue.settings.import_roots["scope"].path / "brain").mkdir(exist_ok=True)
    return queue.call(
        catalog.link_dataset, by=queue.principal(by), name="brain", place="root:scope/brain", summary=DEMO
    )  # fmt: skip


def _find(queue, ref, by="ada"):
    return queue.call(catalog.find, ref, by=queue.principal(by))


def _preview(queue, ref):
    return _find(queue, ref).summary.layers[0].preview


def _describe(queue, dataset, **options):
    return queue.submit(workflow="describe", params={"dataset": dataset}, **options)


def _run(queue, worker, place):
    claim = queue.claim_and_start(worker)
    assert queue.succeed(claim, _drawn(place)).publish
    queue.publish(claim)
    return claim


def test_the_pictures_of_a_dataset_lie_in_it_and_are_known_when_they_are_published(queue):
    _describe(queue, "demo")
    worker = queue.open_worker()
    claim = queue.claim_and_start(worker)
    assert claim.places == {"demo": "data:local/demo", "previews:demo": "previews:local/demo"}
    folder = queue.settings.datasets_dir / "local" / "demo" / ".previews"
    assert queue.places.locate("previews:local/demo") == str(folder.resolve())
    queue.succeed(claim, _drawn("previews:local/demo"))
    assert _preview(queue, "demo") is None
    before = _find(queue, "demo")
    _draw(queue, folder)
    queue.publish(claim)
    demo = _find(queue, "demo")
    address = f"/datasets/{demo.id}/preview/segmentation/xz.webp?v={NAME}"
    assert demo.summary.layers[0].preview.slices[1].address == address
    assert demo.summary.layers[0].preview.thumbnail.address.endswith(f"/segmentation/thumbnail.webp?v={NAME}")
    assert demo.size_bytes == before.size_bytes, "pictures are not counted"
    assert queue.show(claim.job_id).events[-1].why == "the result is published"


def test_the_pictures_of_a_linked_dataset_lie_beside_those_of_its_organization(queue):
    linked = _link(queue)
    place = f"previews:local/@{linked.id}"
    _describe(queue, linked.id)
    worker = queue.open_worker()
    claim = queue.claim_and_start(worker)
    assert claim.places == {linked.id: "root:scope/brain", f"previews:{linked.id}": place}
    _draw(queue, queue.settings.datasets_dir / "local" / f".previews-{linked.id}")
    queue.succeed(claim, _drawn(place))
    queue.publish(claim)
    found = _find(queue, "brain")
    picture, path = catalog.preview_file(found, "segmentation", "yz", places=queue.places)
    assert path.read_bytes() == b"picture"
    assert picture.address.startswith(f"/datasets/{linked.id}/preview/segmentation/yz.webp")
    assert queue.call(catalog.find_by_place, place) == found
    assert list((queue.settings.import_roots["scope"].path / "brain").iterdir()) == []


def test_pictures_go_with_a_linked_dataset(queue):
    linked = _link(queue)
    folder = queue.settings.datasets_dir / "local" / f".previews-{linked.id}"
    _draw(queue, folder)
    queue.call(catalog.trash, linked.id, by=queue.principal("ada"))
    assert catalog.purge_expired(queue.database, places=queue.places, settings=queue.settings) == 0
    assert folder.exists()
    queue.call(catalog.delete_now, linked.id, by=queue.principal("ada"))
    assert catalog.purge_expired(queue.database, places=queue.places, settings=queue.settings) == 1
    assert not folder.exists()
    assert (queue.settings.import_roots["scope"].path / "brain").exists()


def test_only_the_own_organization_draws_a_dataset(queue):
    demo = _find(queue, "demo")
    with pytest.raises(DatasetNotFound):
        _describe(queue, demo.id, by=queue.principal("cleo"))
    queue.call(catalog.set_public, demo.id, True, by=queue.principal("ada"))
    with pytest.raises(NotAllowed, match="belongs to another organization and can only be read"):
        _describe(queue, demo.id, by=queue.principal("cleo"))


@pytest.mark.parametrize(
    "place", ["previews:other/demo", "previews:local/cortex", "data:local/demo/.previews"]
)
def test_a_worker_cannot_say_that_pictures_are_elsewhere(queue, place):
    _describe(queue, "demo")
    claim = queue.claim_and_start(queue.open_worker())
    with pytest.raises(NotAllowed, match="its result cannot be there"):
        queue.seal(claim, _drawn(place))


def test_pictures_are_no_images_to_convert(queue):
    _draw(queue, queue.settings.datasets_dir / "other" / ".previews-0123456789abcdef")
    for place in ("previews:other/@0123456789abcdef", "previews:local/demo"):
        params = {"layers": [{"source": place}], "target": "cortex"}
        with pytest.raises(UnsafeReference, match="is not a source"):
            queue.submit(workflow="convert", params=params)


def test_pictures_that_are_not_as_we_write_them_are_not_shown(queue):
    _describe(queue, "demo")
    folder = queue.settings.datasets_dir / "local" / "demo" / ".previews"
    folder.mkdir(parents=True)
    (folder / "index.json").write_text("{")
    _run(queue, queue.open_worker(), "previews:local/demo")
    assert _preview(queue, "demo") is None


def test_a_link_in_a_dataset_leads_nowhere(queue):
    folder = queue.settings.datasets_dir / "local" / "demo" / ".previews"
    _draw(queue, folder)
    (folder / f"{NAME}.webp").unlink()
    (queue.settings.home / "secret").write_text("secret")
    (folder / f"{NAME}.webp").symlink_to(queue.settings.home / "secret")
    _describe(queue, "demo")
    _run(queue, queue.open_worker(), "previews:local/demo")
    with pytest.raises(NotFound, match="is gone"):
        catalog.preview_file(_find(queue, "demo"), "segmentation", "xy", places=queue.places)


@pytest.mark.parametrize(
    ("layer", "name"), [("color", "xy"), ("segmentation", "zz"), ("../x", "xy"), ("", "index")]
)
def test_other_names_find_no_picture(queue, layer, name):
    _draw(queue, queue.settings.datasets_dir / "local" / "demo" / ".previews")
    _describe(queue, "demo")
    _run(queue, queue.open_worker(), "previews:local/demo")
    with pytest.raises(NotFound, match="there is no picture"):
        catalog.preview_file(_find(queue, "demo"), layer, name, places=queue.places)


def test_a_dataset_that_another_job_makes_is_drawn_when_it_is_there(queue):
    convert = {"layers": [{"source": "root:scope/raw"}], "target": "cortex"}
    made, drawn = queue.call(
        jobs.submit_group, by=queue.principal("ada"),
        jobs=[
            NewJob(key="make", workflow="convert", params=convert),
            NewJob(workflow="describe", params={"dataset": "job:make"}),
        ],
    )  # fmt: skip
    worker = queue.open_worker()
    claim = queue.claim_and_start(worker)
    queue.succeed(claim, CORTEX)
    queue.publish(claim)
    claim = queue.claim_and_start(worker)
    assert (claim.job_id, claim.places["previews:cortex"]) == (drawn.id, "previews:local/cortex")
    cortex = _find(queue, "cortex")
    assert [job.id for job in _jobs(queue, cortex)] == [drawn.id, made.id]


def _jobs(queue, dataset, by="ada"):
    return queue.call(jobs.jobs_of_dataset, dataset, by=queue.principal(by), limit=20)


def test_the_jobs_of_a_dataset_are_those_that_named_it_newest_first(queue):
    demo = _find(queue, "demo")
    first = queue.submit()
    second = _describe(queue, demo.id)
    queue.submit_convert("cortex")
    assert [(job.id, job.workflow) for job in _jobs(queue, demo)] == [
        (second.id, "describe"), (first.id, "find_largest_segment_id"),
    ]  # fmt: skip
    queue.call(catalog.rename_dataset, demo.id, "renamed", by=queue.principal("ada"))
    assert len(_jobs(queue, demo)) == 2
    assert [job.id for job in queue.call(jobs.jobs_of_dataset, demo, by=queue.principal("ada"), limit=1)] == [
        second.id
    ]


def test_nobody_learns_of_jobs_that_they_may_not_see(queue):
    demo = _find(queue, "demo")
    queue.submit()
    mine = queue.submit(by=queue.principal("ben"))
    assert [job.id for job in _jobs(queue, demo, by="ben")] == [mine.id]
    assert _jobs(queue, demo, by="cleo") == ()


def test_a_job_that_only_finds_a_number_draws_nothing(queue):
    queue.submit()
    claim = queue.claim_and_start(queue.open_worker())
    queue.succeed(claim, LARGEST_ID)
    queue.publish(claim)
    assert _preview(queue, "demo") is None


def test_the_pictures_of_a_dataset_are_seen_by_those_who_may_read_it(queue):
    _draw(queue, queue.settings.datasets_dir / "local" / "demo" / ".previews")
    _describe(queue, "demo")
    _run(queue, queue.open_worker(), "previews:local/demo")
    demo = _find(queue, "demo")
    with pytest.raises(DatasetNotFound):
        _find(queue, demo.id, by="eve")
    queue.call(catalog.set_public, demo.id, True, by=queue.principal("ada"))
    shown = _find(queue, demo.id, by="eve")
    _, path = catalog.preview_file(shown, "segmentation", "xy", places=queue.places)
    assert path.read_bytes() == b"picture"
    queue.call(catalog.trash, demo.id, by=queue.principal("ada"))
    with pytest.raises(DatasetNotFound):
        _find(queue, demo.id, by="eve")
