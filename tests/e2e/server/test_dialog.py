"""A job is filled in, priced and submitted in a real browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from paid_work import installed
from voxelworks import catalog
from voxelworks.db import open_database
from voxelworks.protocol.places import dataset_place
from voxelworks.protocol.views import DatasetSummary, LayerSummary

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

BOX = "0,0,0,2000,1000,500"
LAYERS = (
    LayerSummary(
        name="em", category="color", dtype="uint8", channel_count=1, box=BOX, mags=("1", "2-2-1"),
    ),
    LayerSummary(
        name="cells", category="segmentation", dtype="uint32", channel_count=1, box=BOX, mags=("1", "2-2-1"),
    ),
)  # fmt: skip
NAMES = ("retina", "tectum", *(f"brain_{number}" for number in range(8)))
MAKE = "/workflows/make_segmented/new"


def expect(locator):
    return playwright.expect(locator)


@pytest.fixture(scope="module", autouse=True)
def stocked(site) -> Iterator[None]:
    """Put paid workflows, datasets and credits there."""
    with closing(open_database(site.settings)) as database, database.session() as session:
        for name in NAMES:
            catalog.register(
                session, organization_id="local", user_id="local", name=name, place=dataset_place("local", name),
                summary=DatasetSummary(voxel_size="4,4,40", layers=LAYERS),
            )  # fmt: skip
    with site.operator() as operator:
        operator.post("/api/v1/operator/organizations/local/grants", json={"credits": 5}).raise_for_status()
    with installed():
        yield


@pytest.fixture(autouse=True)
def nothing_left(site) -> Iterator[None]:
    yield
    for job in site.client.list_jobs(states=["queued"]).jobs:
        site.client.cancel(job.id)


def test_a_paid_job_is_submitted_with_the_keyboard_alone(site, open_page):
    page = open_page("/workflows")
    page.get_by_role("link", name="Make segmented").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#quote")).to_contain_text("The price is shown when everything above is filled in")
    page.locator("#input-dataset").focus()
    page.keyboard.type("retina", delay=100)
    expect(page.locator("#input-layer")).to_have_value("cells")
    expect(page.locator("#input-dataset")).to_have_value("retina")
    expect(page.locator("#input-dataset")).to_be_focused()
    expect(page.locator("#input-box-note")).to_contain_text(
        "The whole layer: 2000 × 1000 × 500 voxels in mag 1"
    )
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "input-target":
            break
    page.keyboard.type("retina_cells")
    expect(page.locator("#quote .total")).to_have_text("Total1 credit")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "submit":
            break
    expect(page.locator("#submit")).to_have_text("Submit for 1 credit")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Make segmented retina_cells")
    job = site.client.show(page.url.rpartition("/")[2]).job
    assert (job.charge_millicredits, job.params["layer"]) == (1000, {"dataset": "retina", "layer": "cells"})


def test_a_price_that_comes_late_does_not_replace_what_came_with_the_form(site, open_page):
    page = open_page(MAKE)
    page.route("**/quote", lambda route: (time.sleep(1.5), route.continue_()))
    with page.expect_request("**/quote"):
        page.route("**/new", lambda route: (time.sleep(0.6), route.continue_()))
        page.locator("#input-dataset").select_option("retina")
    expect(page.locator("#input-layer")).to_have_value("cells")
    whole = "The whole layer: 2000 × 1000 × 500 voxels in mag 1"
    expect(page.locator("#input-box-note")).to_contain_text(whole)
    page.wait_for_timeout(2500)
    expect(page.locator("#input-box-note")).to_contain_text(whole)


def test_what_is_typed_while_the_form_is_on_its_way_stays(site, open_page):
    page = open_page(MAKE)
    held = []
    page.route("**/new", lambda route: held.append(route))
    page.locator("#input-dataset").select_option("tectum")
    page.locator("#input-dataset").select_option("retina")
    target = page.locator("#input-target")
    target.press_sequentially("retina_cell")
    page.keyboard.press("Home")
    page.keyboard.type("my_")
    while len(held) < 2:
        page.wait_for_timeout(20)
    held[1].continue_()
    expect(page.locator("#input-layer")).to_have_value("cells")
    expect(page.locator("#input-dataset")).to_have_value("retina")
    expect(target).to_be_focused()
    page.keyboard.type("new_")
    expect(target).to_have_value("my_new_retina_cell")
    expect(page.locator("#quote .total")).to_have_text("Total1 credit")


def test_what_was_typed_while_the_form_was_on_its_way_is_priced(site, open_page):
    page = open_page(MAKE)
    held = []
    page.route("**/new", lambda route: held.append(route))
    page.locator("#input-dataset").select_option("retina")
    while not held:
        page.wait_for_timeout(20)
    page.locator("#input-target").fill("retina_cells")
    held[0].continue_()
    expect(page.locator("#input-layer")).to_have_value("cells")
    expect(page.locator("#input-target")).to_have_value("retina_cells")
    expect(page.locator("#quote .total")).to_have_text("Total1 credit")


def open_without_scripts(site, open_page, path):
    """Open a form whose script is on its way; give the page, and what lets it come."""
    page = open_page("/workflows")
    held = []
    page.route("**/dialog*.js*", lambda route: held.append(route))
    page.goto(f"{site.info.url}{path}", wait_until="commit")

    def let_scripts_come():
        while not held:
            page.wait_for_timeout(20)
        held[0].continue_()

    return page, let_scripts_come


def test_what_is_chosen_before_the_scripts_have_come_counts(site, open_page):
    page, let_scripts_come = open_without_scripts(site, open_page, MAKE)
    page.locator("#input-dataset").select_option("retina")
    page.locator("#input-target").fill("retina_cells")
    let_scripts_come()
    expect(page.locator("#input-layer")).to_have_value("cells")
    expect(page.locator("#input-target")).to_have_value("retina_cells")
    expect(page.locator("#quote .total")).to_have_text("Total1 credit")


def test_what_is_typed_before_the_scripts_have_come_is_priced(site, open_page):
    page, let_scripts_come = open_without_scripts(site, open_page, f"{MAKE}?dataset=retina")
    page.locator("#input-target").fill("retina_cells")
    let_scripts_come()
    expect(page.locator("#quote .total")).to_have_text("Total1 credit")


def test_box_and_mag_change_the_price_at_once(site, open_page):
    page = open_page(f"{MAKE}?dataset=retina&target=x")
    total = page.locator("#quote .total")
    expect(total).to_have_text("Total1 credit")
    page.get_by_label("Mag").select_option("2-2-1")
    expect(total).to_have_text("Total0.25 credits")
    expect(page.locator("#quote")).to_contain_text("1000 × 500 × 500 in mag 2-2-1")
    page.locator("#input-box").fill("0,0,0,3000,10,10")
    expect(page.locator("#input-box-note")).to_contain_text("the part inside it is 0,0,0,2000,10,10")
    expect(total).to_have_count(0)
    page.get_by_role("button", name="Test run on a small box in the middle").click()
    expect(page.locator("#input-box")).to_have_value("744,244,122,512,512,256")
    expect(total).to_have_text("Total0.017 credits")
    page.get_by_role("button", name="Whole layer").click()
    expect(page.locator("#input-box")).to_have_value("")
    expect(total).to_have_text("Total0.25 credits")


def test_several_datasets_and_what_follows_are_one_submission(site, open_page):
    page = open_page("/workflows/find_largest_segment_id/new?dataset=retina")
    page.get_by_text("Work on several datasets at once").click()
    page.locator("[data-narrows=more-datasets]").fill("tec")
    expect(page.get_by_label("brain_1")).to_have_count(0)
    page.get_by_label("tectum").check()
    page.get_by_role("button", name="Add the ticked datasets").click()
    expect(page.locator("#input-layer-1")).to_have_value("cells")
    page.get_by_label("Then also run").select_option("downsample")
    page.get_by_role("button", name="Add it").click()
    page.get_by_role("group", name="Then downsample").get_by_label("Layer").select_option("cells")
    page.get_by_role("button", name="Submit 4 jobs").click()
    expect(page.locator(".row-link")).to_have_count(4)
    group = page.url.rpartition("=")[2]
    made = site.client.list_jobs(text=group).jobs
    follows = {job.id: job.after for job in made if job.workflow == "downsample"}
    firsts = {job.id: job.params["layer"]["dataset"] for job in made if job.id not in follows}
    assert sorted(firsts.values()) == ["retina", "tectum"]
    assert sorted(follows.values()) == sorted((job_id,) for job_id in firsts)


def test_a_dataset_is_found_by_typing(site, open_page):
    page = open_page(MAKE)
    find = page.locator("[data-narrows=input-dataset]")
    find.fill("tect")
    assert page.locator("#input-dataset option").all_inner_texts() == [
        "Choose a dataset",
        "tectum",
    ]
    find.press("Enter")
    expect(page.locator("#input-layer")).to_have_value("cells")
    expect(page.locator("#input-dataset")).to_have_value("tectum")
    assert page.url.endswith(MAKE), "nothing was submitted"


def test_the_first_wrong_field_has_the_focus(site, open_page):
    page = open_page(f"{MAKE}?dataset=retina&box=0,0,0,9000,1,1")
    page.get_by_role("button", name="Check, and show the price").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was submitted.")
    expect(page.locator("#input-target")).to_be_focused()
    page.keyboard.type("x")
    page.keyboard.press("Enter")
    expect(page.locator("#input-box-error")).to_contain_text("leaves layer cells")
    expect(page.locator("#input-box")).to_be_focused()


def test_the_dialog_does_without_scripts(site, open_page):
    page = open_page(f"{MAKE}?target=plain", java_script_enabled=False)
    page.locator("#input-dataset").select_option("tectum")
    page.get_by_role("button", name="Show its layers").click()
    expect(page.locator("#input-layer")).to_have_value("cells")
    page.get_by_role("button", name="Test run on a small box in the middle").click()
    expect(page.locator("#input-box")).to_have_value("872,372,122,256,256,256")
    page.get_by_label("Mag").select_option("2-2-1")
    page.get_by_role("button", name="Submit for").click()
    expect(page.locator("#quote")).to_contain_text("The price is another one now, and nothing was submitted")
    page.get_by_role("button", name="Submit for").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Make segmented plain")


def test_params_are_saved_and_used_again(site, open_page):
    page = open_page(f"{MAKE}?dataset=retina&mag=2-2-1")
    page.get_by_text("Saved parameters").click()
    page.locator("#saved-name").fill("coarse")
    page.locator("#saved-name").press("Enter")
    expect(page.get_by_text("Saved as coarse.")).to_be_visible()
    page.goto(site.info.url + f"{MAKE}?dataset=tectum")
    page.get_by_text("Saved parameters (1)").click()
    page.get_by_label("Saved before").select_option("coarse")
    page.get_by_role("button", name="Use them").click()
    expect(page.get_by_label("Mag")).to_have_value("2-2-1")
    expect(page.locator("#input-dataset")).to_have_value("tectum")


STATES = (
    MAKE, f"{MAKE}?dataset=retina&target=x", f"{MAKE}?dataset=retina&box=0,0,0,9000,1,1",
    f"{MAKE}?dataset=retina&dataset=tectum&target=x&target=y&then=downsample", "/workflows",
)  # fmt: skip


UNFOLD = "for (const part of document.querySelectorAll('main details')) part.open = true"


@pytest.mark.parametrize("width", [390, 1280])
def test_no_state_of_the_dialog_is_wider_than_its_window(site, open_page, width):
    page = open_page("/workflows", width=width)
    for path in STATES:
        page.goto(site.info.url + path)
        page.evaluate(UNFOLD)
        assert (path, page.evaluate("document.documentElement.scrollWidth - innerWidth <= 0")) == (path, True)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_no_barrier_in_the_dialog(site, open_page, barriers, scheme, width):
    page = open_page("/workflows", scheme=scheme, width=width, bypass_csp=True)
    for path in STATES:
        page.goto(site.info.url + path)
        page.evaluate(UNFOLD)
        if path == STATES[0]:
            page.get_by_role("button", name="Check, and show the price").click()
            expect(page.get_by_role("alert")).to_be_visible()
        assert (path, barriers(page)) == (path, [])
