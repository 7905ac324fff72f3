"""Boxes are drawn on slices of a layer, and annotations looked at, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from importlib.resources import as_file, files

import pytest

import voxelworks
from paid_work import installed
from voxelworks import catalog, jobs
from voxelworks.db import open_database
from voxelworks.protocol.places import Places, dataset_place

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

FORM = "/workflows/segment/new?dataset=slab&layer=labels"


def expect(locator):
    return playwright.expect(locator)


@pytest.fixture(scope="module", autouse=True)
def slab(site) -> Iterator[None]:
    """A layer of 160 x 160 x 64 voxels of 4 x 4 x 8 nm, with pictures."""
    place = dataset_place("local", "slab")
    with as_file(files("voxelworks") / "sample") as sample:
        voxelworks.run(
            "convert", target=str(site.settings.datasets_dir / "local" / "slab"), voxel_size="4,4,8",
            layers=[{"source": str(sample / "labels"), "layer_name": "labels", "category": "segmentation"}],
        )  # fmt: skip
    with closing(open_database(site.settings)) as database, database.session() as session:
        catalog.register(
            session, organization_id="local", user_id="local", name="slab", place=place,
            summary=jobs.describe_dataset(place, Places.of(site.settings)),
        )  # fmt: skip
    with installed():
        yield


def box_of(page):
    return [int(number) for number in page.locator("#input-box").input_value().split(",")]


def whole(page):
    """The layer, as the form knows it."""
    return [int(number) for number in page.locator(".canvas").get_attribute("data-layer").split(",")]


def slice_of(page, plane):
    found = page.locator(f"svg[data-plane={plane}]")
    found.scroll_into_view_if_needed()
    return found, found.bounding_box()


def drag(page, plane, start, end, *, is_dropped=True):
    """Drag on a slice; places are shares of its width and height."""
    _, frame = slice_of(page, plane)
    at = [(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in (start, end)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=3)
    if is_dropped:
        page.mouse.up()


def near(found, wanted, *, voxels=4):
    """A pixel of the screen is more than a voxel."""
    return all(abs(a - b) <= voxels for a, b in zip(found, wanted, strict=True))


def test_a_box_is_drawn_changed_and_moved_with_the_pointer(site, open_page):
    page = open_page(FORM)
    assert whole(page) == [0, 0, 0, 160, 160, 64]
    with page.expect_response("**/quote"):
        drag(page, "xy", (0.25, 0.25), (0.75, 0.5))
    assert near(box_of(page), [40, 40, 0, 80, 40, 64]), "z is the whole layer's"
    expect(page.locator("#input-box-note")).to_contain_text("× 64 voxels in mag 1")
    drag(page, "xz", (0.4, 0), (0.4, 0.5))  # its upper edge
    assert near(box_of(page), [40, 40, 32, 80, 40, 32]), "y is kept"
    drag(page, "xz", (0.9, 0.2), (1.5, 1.5))  # beside it: a new one, up to the end of the layer
    assert near(box_of(page), [144, 40, 13, 16, 40, 51])
    assert box_of(page)[0] + box_of(page)[3] == 160
    drag(page, "xy", (0.9, 0.4), (0.5, 0.4))  # its left edge
    assert near(box_of(page), [80, 40, 13, 80, 40, 51])
    drag(page, "xy", (0.75, 0.4), (0.1, 0.9))  # its middle: as far to the left as the layer goes
    assert near(box_of(page), [0, 120, 13, 80, 40, 51])
    assert box_of(page)[0] == 0
    kept = box_of(page)
    drag(page, "yz", (0.01, 0.01), (0.02, 0.2), is_dropped=False)
    assert box_of(page) != kept
    page.keyboard.press("Escape")
    page.mouse.up()
    assert box_of(page) == kept, "Escape gives the drawing up"


def test_what_is_typed_is_drawn_and_a_click_draws_nothing(site, open_page):
    page = open_page(FORM)
    line = page.locator("svg[data-plane=xy] .canvas-line")
    assert line.get_attribute("d") == "M0 0H160V160H0Z", "nothing typed: the whole layer"
    page.locator("#input-box").fill("10,20,0,30,40,1")
    expect(line).to_have_attribute("d", "M10 20H40V60H10Z")
    expect(page.locator("svg[data-plane=xy]")).to_have_class("is-off")
    page.locator("#input-box").fill("10,20")
    assert line.get_attribute("d") is None, "no box, no drawing"
    page.get_by_role("button", name="Whole layer").click()
    expect(line).to_have_attribute("d", "M0 0H160V160H0Z")
    page.locator("svg[data-plane=xy]").click()
    expect(page.locator("#input-box")).to_have_value("")


def test_the_drawing_needs_no_pointer(site, open_page):
    page = open_page(f"{FORM}&box=10,10,10,40,40,20")
    page.locator(".canvas summary").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.plane") == "xy"
    with page.expect_response("**/quote"):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    assert box_of(page) == [12, 10, 10, 40, 42, 20], "a step is a hundredth of the slice"
    expect(page.locator(".canvas [role=status]")).to_have_text("y from 10 to 52")
    for _ in range(6):
        page.keyboard.press("ArrowUp")
    assert box_of(page)[1] == 0, "it stays in the layer"


def test_a_finger_draws_on_a_phone(site, open_page):
    page = open_page(FORM, width=390, has_touch=True)
    expect(page.locator("svg[data-plane=xy]")).to_be_hidden()
    page.get_by_text("Draw it on the pictures").tap()
    _, frame = slice_of(page, "xy")
    session = page.context.new_cdp_session(page)

    def touch(kind, *shares):
        points = [
            {"x": frame["x"] + x * frame["width"], "y": frame["y"] + y * frame["height"]} for x, y in shares
        ]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (0.25, 0.25))
    touch("touchMove", (0.5, 0.6))
    touch("touchMove", (0.75, 0.75))
    touch("touchEnd")
    assert near(box_of(page), [40, 40, 0, 80, 80, 64])


def test_slices_have_the_proportions_of_space_and_no_barriers(site, open_page, barriers):
    page = open_page(f"{FORM}&box=10,10,10,40,40,20", bypass_csp=True)
    for width, scheme in ((1280, "light"), (390, "dark")):
        page.set_viewport_size({"width": width, "height": 860})
        page.emulate_media(color_scheme=scheme)
        for plane, proportion in (("xy", 1), ("xz", 160 / 128), ("yz", 160 / 128)):
            _, frame = slice_of(page, plane)
            found = frame["width"] / frame["height"]
            assert (plane, found) == (plane, pytest.approx(proportion, rel=0.02))
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert barriers(page) == []


def test_an_annotation_is_looked_at_and_thrown_away(site, open_page, barriers):
    trees = "".join(
        f'<thing id="{number}" name="axon_{"x" * 60}_{number}" color.r="1" color.g="0.4" color.b="0"/>'
        for number in range(3)
    )
    nml = (
        f'<things><parameters><experiment name="slab"/></parameters>{trees}<volume id="0" name="v"/></things>'
    )
    with site.operator() as operator:
        files = {"file": ("axons.nml", nml)}
        operator.post("/api/v1/annotations", files=files, data={"dataset": "slab"}).raise_for_status()
    page = open_page("/datasets/slab", bypass_csp=True)
    page.get_by_role("link", name="axons.nml").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("axons.nml")
    for width, scheme in ((1280, "light"), (390, "dark")):
        page.set_viewport_size({"width": width, "height": 860})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert barriers(page) == []
    page.get_by_role("button", name="Move to the trash").click()
    page.get_by_role("button", name="Move it").click()
    expect(page.get_by_text("The annotation is in the trash.")).to_be_visible()
