"""A report as a reader meets it: opened from disk in Chromium, without a network."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from full_record import record

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the browser extra)")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    from softbench.results.report import render

    found = tmp_path_factory.mktemp("report") / "report.html"
    found.write_text(render([record()]), encoding="utf-8")
    return found


@pytest.fixture(params=["light", "dark"])
def page(request, browser, path):
    """The page with what it said and asked for, the network off."""
    context = browser.new_context(offline=True, color_scheme=request.param, accept_downloads=True)
    page = context.new_page()
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.goto(path.as_uri())
    page.scheme = request.param
    yield page
    context.close()


def test_it_says_nothing_on_the_console_and_asks_for_nothing(page, path):
    assert page.said == []
    assert page.asked == [path.as_uri()]


def _column(page, table, i):
    return page.locator(f"#{table}-table tbody tr td:nth-child({i})").all_inner_texts()


def test_tables_sort_by_value_up_and_down_by_mouse_and_keyboard(page):
    heading = page.locator("#measurements-table th", has_text="interval")
    before = _column(page, "measurements", 5)
    page.locator("#measurements-table th button", has_text="time").first.click()
    up = _column(page, "measurements", 5)
    assert sorted(before) == sorted(up)
    assert up[-1].startswith("-")
    assert up[0] == "300 us" or up[0].endswith("us")
    button = page.locator("#measurements-table th button", has_text="time").first
    button.focus()
    page.keyboard.press("Enter")
    down = _column(page, "measurements", 5)
    measured = [text for text in up if not text.startswith("-")]
    assert [text for text in down if not text.startswith("-")] == measured[::-1]
    assert page.locator("#measurements-table th[aria-sort=descending]").count() == 1
    assert heading.get_attribute("aria-sort") is None


def test_colours_follow_the_readers_scheme(page):
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(int(part) for part in colour[4:-1].split(","))
    assert (light > 600) == (page.scheme == "light")
    line = page.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
    assert line != ""


@pytest.mark.parametrize("packed", [False, True], ids=["as text", "compressed"])
def test_the_data_can_be_downloaded(page, tmp_path, monkeypatch, packed):
    if packed:  # as of a page that would be too large
        from softbench.results import report

        monkeypatch.setattr(report, "LARGEST", 0)
        (tmp_path / "report.html").write_text(report.render([record()]), encoding="utf-8")
        page.goto((tmp_path / "report.html").as_uri())
    for name, suffix in (("JSON", "json"), ("CSV", "csv")):
        with page.expect_download() as info:
            page.get_by_role("button", name=name, exact=True).click()
        target = tmp_path / f"data.{suffix}"
        info.value.save_as(target)
        text = target.read_text(encoding="utf-8")
        if suffix == "json":
            assert json.loads(text)["overall"] == record()["overall"]
        else:
            assert "RuntimeError: <no & luck>" in text


def test_axe_finds_no_serious_violation(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe (the browser extra)")
    found = axe.Axe().run(page).response["violations"]
    serious = [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found if v["impact"] in ("serious", "critical")]
    assert serious == []


def test_it_can_be_read_on_a_telephone_and_printed(page):
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    page.emulate_media(media="print")
    assert not page.get_by_role("button", name="JSON", exact=True).is_visible()
