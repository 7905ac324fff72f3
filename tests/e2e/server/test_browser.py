"""What a person does in the web app, in a real browser."""

from __future__ import annotations

import time

import pytest

from voxelworks.protocol.messages import Progress
from voxelworks.testing.rounds import rounds

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

PATHS = (
    "/jobs", "/jobs?period=7d&dataset=demo", "/jobs/selected?deed=cancel&all=true", "/jobs?state=failed",
    "/jobs?state=cancelled&workflow=downsample", "/workflows", "/workflows/convert/new",
    "/workflows/downsample/new?dataset=demo", "/datasets", "/datasets/demo", "/uploads/new", "/annotations", "/trash",
    "/models", "/models/cells", "/account", "/organization", "/organization/credits", "/organization/webhooks",
    "/organization/audit", "/operator", "/operator/failures", "/operator/workers", "/operator/organizations",
    "/operator/mails", "/operator/orders", "/operator/audit", "/setup", "/help",
)  # fmt: skip


def expect(locator):
    return playwright.expect(locator)


def test_a_running_job_is_watched_without_reloading(site, open_page):
    job_id = site.convert("watched")
    page = open_page(f"/jobs/{job_id}")
    expect(page.locator(".status .badge")).to_have_text("Queued")
    site.take(job_id)
    expect(page.locator(".status .badge")).to_have_text("Running")
    site.worker.renew(Progress(phase="color: mag 1", done=1, total=4, text="1 of 4 blocks"))
    expect(page.locator("#job-bar")).to_have_attribute("aria-valuenow", "25.0")
    expect(page.get_by_text("1 of 4 blocks")).to_be_visible()
    site.worker.log("first line\n")
    expect(page.locator(".log-text")).to_have_text(["first line"])
    site.worker.log("second line\n", offset=11)
    expect(page.locator(".log-text")).to_have_text(["first line", "second line"])
    expect(page).to_have_title("25 % Convert watched – Voxelworks")
    site.worker.fail("program_error", "block-failed", "block 3 failed 3 times")
    expect(page.locator(".status .badge")).to_have_text("Failed")
    expect(page.locator(".status .failure")).to_have_text("block 3 failed 3 times")
    expect(page.locator("p[role=status]")).to_contain_text("Convert: Failed")
    expect(page.get_by_role("button", name="Retry")).to_be_visible()


def test_a_log_is_followed_until_somebody_scrolls_up(site, open_page):
    job_id = site.convert("followed")
    site.take(job_id)
    text = "".join(f"line {number}\n" for number in range(300))
    site.worker.log(text)
    page = open_page(f"/jobs/{job_id}")
    log, follow = page.locator("#log"), page.locator("#follow")
    at_end = "box => box.scrollHeight - box.scrollTop - box.clientHeight < 2"
    _wait_until(lambda: log.evaluate(at_end))
    site.worker.log("one more\n", offset=len(text))
    expect(page.locator(".log-text").last).to_have_text("one more")
    _wait_until(lambda: log.evaluate(at_end))
    expect(follow).to_be_checked()
    log.hover()
    page.mouse.wheel(0, -600)
    expect(follow).not_to_be_checked()
    site.worker.log("and another\n", offset=len(text) + 9)
    expect(page.locator(".log-text").last).to_have_text("and another")
    assert not log.evaluate(at_end)
    follow.check()
    _wait_until(lambda: log.evaluate(at_end))


def test_the_list_shows_new_jobs_and_changes_by_itself(site, open_page):
    page = open_page("/jobs")
    job_id = site.convert("appearing")
    row = page.get_by_role("row").filter(has_text="appearing")
    expect(row.locator(".badge")).to_have_text("Queued")
    page.keyboard.press("j")
    expect(page.locator(f"#open-{job_id}")).to_be_focused()
    site.client.cancel(job_id)
    expect(row.locator(".badge")).to_have_text("Cancelled")
    expect(page.locator(f"#open-{job_id}")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Convert appearing")


def test_jobs_are_searched_with_the_keyboard_from_any_page(site, open_page):
    needle, hay = site.convert("needle_in_hay"), site.convert("only_straw")
    page = open_page("/datasets")
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("NEEDLE")
    page.keyboard.press("Enter")
    expect(page.locator(f"#open-{hay}")).to_have_count(0)
    expect(page.locator(f"#open-{needle}")).to_be_visible()
    expect(page.locator("#search")).to_have_value("NEEDLE")
    site.client.cancel(needle)  # the stream of the open list knows the search
    expect(page.get_by_role("row").filter(has_text="needle_in_hay").locator(".badge")).to_have_text(
        "Cancelled"
    )
    site.client.cancel(hay)


def test_a_job_is_submitted_with_the_keyboard_alone(site, open_page):
    page = open_page("/workflows/convert/new")
    page.get_by_label("Source").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".browse")).to_be_visible()
    page.get_by_role("button", name="run1").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".browse-place")).to_have_text("root:scope/run1")
    page.get_by_role("button", name="Use this folder").press("Enter")
    expect(page.get_by_label("Source")).to_have_value("root:scope/run1")
    page.get_by_label("Target").focus()
    page.keyboard.type("typed")
    page.get_by_label("Voxel size").focus()
    page.keyboard.type("4,4")
    page.keyboard.press("Enter")
    expect(page.locator("#input-voxel_size-error")).to_contain_text("'4,4' is not a voxel size")
    expect(page.get_by_label("Voxel size")).to_be_focused()
    expect(page.get_by_label("Target")).to_have_value("typed")
    page.keyboard.press("End")
    page.keyboard.type(",40")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Convert typed")
    _wait_until(lambda: page.evaluate("scrollY") == 0)
    expect(page.locator(".status .badge")).to_have_text("Queued")
    page.keyboard.press("c")
    page.get_by_role("button", name="Cancel the job").press("Enter")
    expect(page.locator(".status .badge")).to_have_text("Cancelled")
    page.keyboard.press("r")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Repeats")).to_be_visible()


def test_a_form_obeys_from_the_moment_it_is_shown(site, open_page):
    def at_once(deed):
        page.evaluate(
            f"addEventListener('htmx:afterSwap', () => setTimeout(() => {{ {deed} }}), {{once: true}})"
        )

    page = open_page("/workflows/convert/new")
    at_once("document.querySelector('.entry').click()")
    page.get_by_role("button", name="Browse").click()
    expect(page.locator(".browse-place")).to_have_text("root:scope/run1")
    page.get_by_role("button", name="Use this folder").click()
    page.get_by_label("Voxel size").fill("4,4,40")
    at_once(
        "document.getElementById('input-target').value = 'hasty';"
        "document.querySelector('[name=action][value=submit]').click()"
    )
    page.get_by_label("Voxel size").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Convert hasty")
    site.client.cancel(page.url.rpartition("/")[2])


def test_no_page_is_still_scrolling_when_the_next_one_comes(site, open_page):
    # A smooth scroll towards a field outlives its page, and would move the next one away from its top.
    page = open_page("/workflows/convert/new", height=300)
    assert page.evaluate("scrollTo(0, 100), scrollY") == 100


def test_layers_are_added_and_offered_as_the_form_is_filled_in(site, open_page):
    page = open_page("/workflows/convert/new")
    page.get_by_label("Source").fill("root:scope/run1")
    page.get_by_role("button", name="Add another layer").click()
    expect(page.locator("input[name=source]")).to_have_count(2)
    expect(page.locator("input[name=source]").first).to_have_value("root:scope/run1")
    page.get_by_role("button", name="Remove Layer 1").click()
    expect(page.locator("input[name=source]")).to_have_count(1)
    page.goto(site.info.url + "/workflows/downsample/new")
    page.get_by_label("Dataset").select_option("demo")
    page.get_by_label("Layer").select_option("color")
    page.get_by_role("button", name="Submit the job").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Downsample demo/color")
    site.client.cancel(page.url.rpartition("/")[2])


def test_a_page_survives_a_server_that_is_away(site, open_page):
    job_id = site.convert("patient")
    page = open_page(f"/jobs/{job_id}")
    expect(page.locator(".status .badge")).to_have_text("Queued")
    page.context.set_offline(True)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    site.client.cancel(job_id)
    page.context.set_offline(False)
    expect(page.locator(".status .badge")).to_have_text("Cancelled")


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_no_page_is_wider_than_its_window(site, open_page, width):
    job_id = site.convert(f"wide_{'x' * 80}_{width}")
    page = open_page("/jobs", width=width)
    for path in (*PATHS, f"/jobs/{job_id}", f"/jobs/{job_id}/compare"):
        page.goto(site.info.url + path)
        assert (path, page.evaluate("document.documentElement.scrollWidth - innerWidth <= 0")) == (path, True)
    site.client.cancel(job_id)


# Colours depend on the scheme and the rest on the width: the long form tries each with each.
@pytest.mark.parametrize(
    ("width", "scheme"),
    rounds(
        [(390, "dark"), (1280, "light")],
        [(width, scheme) for width in (390, 768, 1280) for scheme in ("light", "dark")],
    ),
)
def test_axe_finds_no_barrier_on_any_page(site, open_page, barriers, scheme, width):
    failed = site.convert(f"barrier_{scheme}_{width}")
    site.take(failed)
    site.worker.log("a line\n")
    running = site.convert(f"running_{scheme}_{width}")
    site.worker.fail("infrastructure", "storage-failed", "the file server did not answer")
    site.take(running)
    site.worker.renew(Progress(phase="color: mag 1", done=1, total=4, text="1 of 4 blocks"))
    page = open_page("/jobs", scheme=scheme, width=width, bypass_csp=True)
    compared = f"/jobs/{failed}/compare?other={running}&everything=true"
    ours = (
        f"/jobs/{failed}",
        f"/jobs/{running}",
        f"/jobs/{failed}/log?find=line",
        f"/jobs/{failed}/compare",
        compared,
    )
    for path in (*PATHS, *ours):
        page.goto(site.info.url + path)
        assert (path, barriers(page)) == (path, [])


def _wait_until(is_so, timeout_s=10):
    # Playwright's own waiting evaluates texts inside the page, which our content policy forbids.
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def test_the_account_menu_opens_and_closes_with_the_keyboard(site, open_page):
    page = open_page("/jobs")
    summary = page.locator("details.menu summary")
    summary.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Account", exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="Account", exact=True)).to_be_hidden()
    expect(summary).to_be_focused()
    summary.click()
    page.get_by_role("link", name="Account", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Account")


def test_a_token_is_made_copied_once_and_revoked_in_the_browser(site, open_page):
    page = open_page("/account")
    page.get_by_label("Name", exact=True).first.fill("notebook")
    page.get_by_role("button", name="Make a token").click()
    expect(page.locator("#new-token")).to_contain_text("vxt_")
    page.goto(site.info.url + "/account")
    expect(page.locator("#new-token")).to_have_count(0)
    page.get_by_role("button", name="Revoke", exact=True).click()
    page.get_by_role("button", name="Revoke it").click()
    expect(page.get_by_role("status").filter(has_text="The token is revoked")).to_be_visible()


def test_help_is_asked_for_on_a_failed_job(site, open_page):
    job_id = site.convert("helpless")
    site.take(job_id)
    site.worker.log("the last words\n")
    site.worker.fail("program_error", "block-failed", "block 3 failed 3 times")
    page = open_page(f"/jobs/{job_id}")
    page.get_by_role("button", name="Ask for help").click()
    page.get_by_label("What do you want to know?").fill("Is my file broken?")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="on its way to the support")).to_be_visible()
