"""Each page of the site, opened from disk in Chromium as readers have it open."""

import functools
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.programs import ROOT

pytest.importorskip("mkdocs", reason="the site is built: `make test-browser`")
pytest.importorskip("selenium", reason="a browser is driven: `make test-browser`")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.only("torch"),
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs `chromium` and `chromedriver`"
    ),
]

DOCS = ROOT / "docs"
PAGES = [
    path.relative_to(DOCS).with_suffix(".html").as_posix()
    for path in sorted(DOCS.rglob("*.md"))
]
LAPTOP, PHONE = (1280, 800), (390, 844)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=True,
        timeout=600,
    )
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        f"user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def show(browser, size):
    width, height = size
    settings = {"width": width, "height": height, "deviceScaleFactor": 1}
    command = "Emulation.setDeviceMetricsOverride"
    browser.execute_cdp_cmd(command, {**settings, "mobile": False})


class Tags(HTMLParser):
    """The attributes of all tags."""

    def __init__(self, path):
        super().__init__()
        self.found = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


@functools.cache
def anchors(path):
    return {found.get("id") for _, found in Tags(path).found}


def path_of(link):
    return Path(unquote(urlsplit(link).path))


def is_alive(link):
    path, anchor = path_of(link), unquote(urlsplit(link).fragment)
    return path.is_file() and (not anchor or anchor in anchors(path))


BROKEN_IMAGES = """
return [...document.images].filter(image => !image.naturalWidth).map(image => image.src)
"""
LINKS = "return [...document.querySelectorAll('a[href]')].map(link => link.href)"
# What reaches beyond the window, and is in nothing that can be scrolled.
OVERFLOWING = """
const width = document.documentElement.clientWidth
const scrolled = element => element && (
  getComputedStyle(element).overflowX !== "visible" || scrolled(element.parentElement))
const found = [...document.querySelectorAll(".md-content *, .md-footer *")].filter(
  element => element.getBoundingClientRect().right > width + 1
    && !scrolled(element.parentElement))
const wide = document.documentElement.scrollWidth
if (wide > width) found.unshift(document.documentElement)
return found.map(element => `${element.outerHTML.slice(0, 200)}: ${wide} of ${width}`)
"""
SCROLLED_TABLES = """
return [...document.querySelectorAll(".md-typeset__scrollwrap")].filter(
  table => table.scrollWidth > table.clientWidth + 1).map(table => table.innerText)
"""


@pytest.mark.parametrize("page", PAGES)
def test_nothing_on_a_page_is_broken_or_too_wide(browser, site, page):
    show(browser, LAPTOP)
    browser.get((site / page).as_uri())
    assert list(browser.get_log("browser")) == []
    assert browser.execute_script(BROKEN_IMAGES) == []
    links = [link for link in browser.execute_script(LINKS) if link.startswith("file:")]
    assert len(links) > 20
    assert [link for link in links if not is_alive(link)] == []
    assert browser.execute_script(OVERFLOWING) == []
    show(browser, PHONE)
    assert browser.execute_script(OVERFLOWING) == []


def test_the_tables_of_the_comparison_fit_on_a_laptop(browser, site):
    show(browser, LAPTOP)
    browser.get((site / "comparison.html").as_uri())
    assert browser.execute_script(SCROLLED_TABLES) == []


def test_a_scrolled_table_keeps_the_names_of_its_rows(browser, site):
    show(browser, PHONE)
    browser.get((site / "comparison.html").as_uri())
    script = """
    const table = document.querySelector(".md-typeset__scrollwrap")
    table.scrollLeft = 200
    const cell = table.querySelector("td").getBoundingClientRect()
    return [table.scrollLeft, cell.left, cell.width]
    """
    scrolled, left, width = browser.execute_script(script)
    assert scrolled > 100
    assert left >= 0
    assert width < PHONE[0] / 2


@pytest.mark.parametrize("size", [LAPTOP, PHONE])
def test_signatures_are_wrapped(browser, site, size):
    show(browser, size)
    browser.get((site / "reference" / "callbacks.html").as_uri())
    script = """
    const signatures = [...document.querySelectorAll(".doc-signature code")]
    return signatures.map(one => [one.scrollWidth, one.clientWidth])
    """
    widths = browser.execute_script(script)
    assert len(widths) > 10
    assert [wide for wide, width in widths if wide > width + 1] == []


def test_a_figure_opens_at_its_full_size(browser, site):
    show(browser, PHONE)
    browser.get((site / "evidence.html").as_uri())
    script = """
    const figures = [...document.querySelectorAll(".md-content img[src$='.png']")]
    return figures.map(one => [one.src, one.closest("a")?.href, one.naturalWidth])
    """
    figures = browser.execute_script(script)
    assert len(figures) > 10
    for source, opened, width in figures:
        assert opened == source
        assert width > PHONE[0]


def test_the_search_works_from_disk(browser, site):
    show(browser, LAPTOP)
    browser.get((site / "index.html").as_uri())
    browser.find_element(By.CSS_SELECTOR, ".md-search__input").send_keys("rex")
    results = ".md-search-result__link"
    WebDriverWait(browser, 30).until(
        lambda browser: browser.find_elements(By.CSS_SELECTOR, results)
    )
    links = [
        link.get_attribute("href").partition("?")[0]
        for link in browser.find_elements(By.CSS_SELECTOR, results)
    ]
    assert "gallery/index.html" in {
        path_of(link).relative_to(site).as_posix() for link in links
    }


def test_a_reader_chooses_light_or_dark(browser, site):
    show(browser, LAPTOP)
    browser.get((site / "index.html").as_uri())
    schemes = []
    for _ in range(3):
        browser.find_element(
            By.CSS_SELECTOR, "label[for^=__palette]:not([hidden])"
        ).click()
        body = browser.find_element(By.TAG_NAME, "body")
        schemes.append(body.get_attribute("data-md-color-scheme"))
    assert {"default", "slate"} == set(schemes)


def test_every_page_is_reached_from_the_first_one_and_leads_to_the_repository(site):
    found, page = [], site / "index.html"
    while page:
        found.append(page.relative_to(site).as_posix())
        links = [attributes for tag, attributes in Tags(page).found if tag == "a"]
        kinds = [link.get("class", "") for link in links]
        assert "md-source" in kinds
        following = [
            link["href"]
            for link, kind in zip(links, kinds, strict=True)
            if "md-footer__link--next" in kind
        ]
        page = (page.parent / following[0]).resolve() if following else None
    assert sorted(found) == sorted(PAGES)
