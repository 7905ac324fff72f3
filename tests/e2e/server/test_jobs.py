"""The list of jobs and their logs, in a real browser and with the keyboard."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

LINES = 30_000
SEEN = """box => {
    const { top, bottom } = box.getBoundingClientRect();
    return [...box.querySelectorAll('.log-line')].filter(line => {
        const edges = line.getBoundingClientRect();
        return edges.bottom > top + 1 && edges.top < bottom - 1;
    }).map(line => Number(line.id.slice(1)));
}"""


def expect(locator):
    return playwright.expect(locator)


def wait_until(is_so, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def long_job(site):
    """A running job with a long log."""
    job_id = site.convert("long_log")
    site.take(job_id)
    site.worker.log("".join(f"line {number} is written\n" for number in range(1, LINES + 1)))
    return job_id


def seen(page):
    return page.locator("#log").evaluate(SEEN)


def test_a_long_log_opens_at_its_end_and_holds_few_lines(long_job, open_page):
    page = open_page(f"/jobs/{long_job}")
    wait_until(lambda: LINES in seen(page))
    assert page.locator(".log-line").count() <= 500
    expect(page.locator("#log-total")).to_have_text("30\u202f000 lines")


def test_the_scroll_bar_means_the_whole_log(long_job, open_page):
    page = open_page(f"/jobs/{long_job}/log")
    wait_until(lambda: LINES in seen(page))
    box = page.locator("#log")
    for share in (0.5, 0.25, 0.9):
        box.evaluate(
            "(box, share) => { box.scrollTop = share * (box.scrollHeight - box.clientHeight) }", share
        )
        expected = share * LINES
        wait_until(lambda wanted=expected: seen(page) and abs(seen(page)[0] - wanted) < 0.02 * LINES)
    # Lines follow each other wherever somebody scrolls slowly.
    for step in (400, 400, 3000, -400, -9000):
        box.evaluate("(box, step) => { box.scrollTop += step }", step)
        wait_until(lambda: len(seen(page)) > 10)
        shown = seen(page)
        assert shown == list(range(shown[0], shown[-1] + 1))
    box.focus()
    page.keyboard.press("Home")
    wait_until(lambda: seen(page)[:2] == [1, 2])
    page.keyboard.press("End")
    wait_until(lambda: LINES in seen(page))
    assert page.locator(".log-line").count() <= 1500


def test_a_log_is_searched_with_the_keyboard(long_job, open_page):
    page = open_page(f"/jobs/{long_job}")
    page.keyboard.press("/")
    expect(page.locator("#log-find")).to_be_focused()
    page.keyboard.type("LINE 2000")
    found = page.locator("#log-found")
    # The first one is looked for from where somebody reads: behind the end it begins anew.
    for keys, told, line in (
        ("Enter", "1 of 11 lines", 2000), ("Enter", "2 of 11 lines", 20_000), ("Shift+Enter", "1 of 11 lines", 2000),
        ("Shift+Enter", "11 of 11 lines", 20_009),
    ):  # fmt: skip
        page.keyboard.press(keys)
        expect(found).to_have_text(told)
        expect(page.locator(".log-line.is-present")).to_have_attribute("id", f"L{line}")
        wait_until(lambda wanted=line: wanted in seen(page))
    expect(page.locator(".log-line.is-present mark")).to_have_text("line 2000")
    page.locator("#log-find").fill("nowhere")
    page.keyboard.press("Enter")
    expect(found).to_have_text("Not found")


def test_a_line_has_an_address(site, long_job, open_page):
    page = open_page(f"/jobs/{long_job}")
    page.locator("#log-line").fill("12 345")
    page.keyboard.press("Enter")
    present = page.locator(".log-line.is-present")
    expect(present).to_have_attribute("id", "L12345")
    assert page.url.endswith(f"/jobs/{long_job}?attempt=1#L12345")
    expect(page.locator("#follow")).not_to_be_checked()
    page.locator("#L12347 .log-number").click()
    expect(present).to_have_attribute("id", "L12347")
    link = page.locator("#L12347 .log-number").get_attribute("href")
    for address in (page.url.removeprefix(site.info.url), link):
        other = open_page(address)
        expect(other.locator(".log-line.is-present")).to_have_text("12347line 12347 is written")
        wait_until(lambda shown=other: 12347 in seen(shown))


def test_a_log_is_read_without_scripts(long_job, open_page):
    page = open_page(f"/jobs/{long_job}/log?attempt=1&line=1", java_script_enabled=False)
    page.get_by_role("link", name="Later lines").click()
    expect(page.locator("#L501")).to_contain_text("line 501 is written")
    page.get_by_label("Search the log").fill("line 2999")
    page.get_by_label("Search the log").press("Enter")
    expect(page.locator(".log-line.is-present")).to_have_attribute("id", "L2999")
    page.get_by_role("link", name="Next line with it").click()
    expect(page.locator(".log-line.is-present")).to_have_attribute("id", "L29990")


def test_new_lines_come_while_a_line_of_the_middle_is_read(site, open_page):
    job_id = site.convert("growing")
    site.take(job_id)
    text = "".join(f"line {number}\n" for number in range(1, 5001))
    site.worker.log(text)
    page = open_page(f"/jobs/{job_id}#L2500")
    wait_until(lambda: 2500 in seen(page))
    shown = seen(page)
    site.worker.log("one more\nand ano", offset=len(text))
    expect(page.locator("#log-total")).to_have_text("5\u202f002 lines")
    assert seen(page) == shown
    page.locator("#follow").check()
    wait_until(lambda: 5002 in seen(page))
    site.worker.log("ther\n", offset=len(text) + 16)
    expect(page.locator("#L5002 .log-text")).to_have_text("and another")
    site.worker.fail("program_error", "broke", "it broke")


def test_lines_are_wrapped_or_not(long_job, open_page):
    page = open_page(f"/jobs/{long_job}")
    page.get_by_label("Wrap").uncheck()
    assert page.locator("#log.is-plain").count() == 1
    page.reload()
    assert page.locator("#log.is-plain").count() == 1
    page.get_by_label("Wrap").check()
    assert page.locator("#log.is-plain").count() == 0


# Several jobs, with the keyboard alone


def _rows(page, text):
    return page.get_by_role("row").filter(has_text=text)


def test_jobs_are_cancelled_and_run_again_with_the_keyboard_alone(site, open_page):
    group = [site.convert(f"keys_{number}") for number in range(3)]
    page = open_page("/jobs?text=keys_")
    for _ in range(2):
        page.keyboard.press("j")
        page.keyboard.press("x")
    expect(page.locator("#bulk-count")).to_have_text("2 selected")
    site.client.cancel(group[0])  # the stream renders this row anew, and the others stay selected
    expect(_rows(page, "keys_0").locator(".badge")).to_have_text("Cancelled")
    expect(page.locator("#bulk-count")).to_have_text("2 selected")
    page.keyboard.press("c")
    expect(page.get_by_role("heading", level=1)).to_have_text("Cancel 2 jobs?")
    expect(page.locator("#confirm")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("2 jobs cancelled")
    assert {site.client.show(job_id).job.state for job_id in group} == {"cancelled"}
    page.goto(f"{site.info.url}/jobs?text=keys_")
    page.locator("#select-all").focus()
    page.keyboard.press("Space")
    expect(page.locator("#bulk-count")).to_have_text("All that match are selected")
    page.keyboard.press("r")
    expect(page.get_by_role("heading", level=1)).to_have_text("Run 3 jobs again?")
    expect(page.locator("#confirm")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("3 jobs submitted again")
    page.goto(f"{site.info.url}/jobs?text=keys_&state=queued")
    page.keyboard.press("k")
    page.keyboard.press("c")  # nothing is selected: the row with the focus is meant
    expect(page.get_by_role("heading", level=1)).to_have_text("Cancel 1 job?")
    site.client.cancel_several(
        [job.id for job in site.client.list_jobs(text="keys_", states=["queued"]).jobs]
    )


def test_several_jobs_are_cancelled_without_scripts(site, open_page):
    job_id = site.convert("scriptless")
    page = open_page("/jobs?text=scriptless", java_script_enabled=False)
    page.get_by_label("Select Convert scriptless").check()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel 1 job").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("1 job cancelled")
    assert site.client.show(job_id).job.state == "cancelled"


def test_filters_stand_in_the_address_without_what_is_empty(site, open_page):
    page = open_page("/jobs", timezone_id="Asia/Tokyo")
    page.get_by_text("More filters").click()
    page.get_by_label("Dataset").fill("demo")
    page.get_by_label("Submitted").select_option("Last 7 days")
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_role("link", name="Without the filter: Dataset demo")).to_be_visible()
    assert page.url.partition("?")[2] == "zone=Asia%2FTokyo&dataset=demo&period=7d"
    page.get_by_role("link", name="Without the filter: Dataset demo").click()
    assert sorted(page.url.partition("?")[2].split("&")) == ["period=7d", "zone=Asia%2FTokyo"]


def test_the_keys_are_listed_and_can_be_switched_off(open_page):
    page = open_page("/jobs")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard")
    expect(dialog).to_be_visible()
    expect(dialog).to_contain_text("select it, or not")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_the_end_of_a_job_is_told_while_nobody_sees_the_page(site, open_page):
    job_id = site.convert("watched_for")
    site.take(job_id)
    page = open_page(f"/jobs/{job_id}", permissions=["notifications"])
    page.evaluate("""() => {
        window.told = [];
        window.Notification = class {
            static permission = 'granted';
            static requestPermission() { return Promise.resolve('granted'); }
            constructor(title, more) { window.told.push([title, more.body]); }
        };
    }""")
    icon = page.locator("link[rel=icon]")
    assert "icon-running.svg" in icon.get_attribute("href")
    button = page.get_by_role("button", name="Tell me when it ends")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => true, configurable: true })")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    site.worker.fail("user_input", "bad", "the folder is empty")
    wait_until(lambda: page.evaluate("told").__len__() == 1)
    assert page.evaluate("told") == [["Convert: failed", "watched_for: the folder is empty"]]
    assert "icon-failed.svg" in icon.get_attribute("href")
    expect(button).to_be_hidden()
