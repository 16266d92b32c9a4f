"""The page of report.py in a real browser: clicked through as a reader would."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, find
from PIL import Image

from figures.page import Report, write_page
from figures.style import Figure, Missing, markdown, plotting, save_data, save_figure

COMMAND = "python eval.py --ckpt 'runs/a b/last.pt' --split val"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings, a picture of pixels, a wide table, something missing, something failed."""
    out = tmp_path_factory.mktemp("report")
    pyplot = plotting()
    figures = []
    for number in range(3):
        drawing, axes = pyplot.subplots(figsize=(9, 3))
        axes.plot([0, 1, 4, 9])
        pictures = save_figure(drawing, out / "figures", f"fig{number}")
        data = save_data(out / "figures", f"fig{number}", {"y": [0, 1, 4, 9]})
        figure = Figure(f"fig{number}", f"Fig. {number}: a line", "It rises.", pictures, data)
        figures.append(figure)
    pixels = out / "figures/pixels.png"
    noise = np.random.default_rng(0).integers(0, 256, (300, 1600, 3), np.uint8)
    Image.fromarray(noise).save(pixels)
    wide = markdown([f"column {k}" for k in range(30)], [[str(k) for k in range(30)]])
    missing = (Missing("the predictions", COMMAND),)
    figures += [
        Figure("fig7", "Fig. 7: pictures", "Noise.", (pixels,), None, (wide,), missing),
        Figure("tables", "Tables: not drawn", "x.json can't be read"),
    ]
    return write_page(
        Report("a test", "about it", "python report.py a", figures, frozenset(["tables"])), out
    )


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    find()
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(started: Browser, page: Path) -> Iterator[Browser]:
    """The page, freshly opened; nothing may have been said or fetched from elsewhere at the end."""
    started.prefer("light")
    started.open(page.as_uri())
    started.value("localStorage.clear()")
    started.open(page.as_uri() + "?fresh")
    yield started
    assert started.complaints() == []
    others = [url for url in started.requests() if not url.startswith(("data:", page.as_uri()))]
    assert others == []
    assert any(url.startswith("data:image/svg+xml") for url in started.requests())


def test_every_picture_is_there(browser):
    sizes = browser.value("[...document.images].map((i) => [i.naturalWidth, i.naturalHeight])")
    assert len(sizes) == 5  # the last is that of the dialog, empty until a picture is enlarged
    assert all(width > 0 and height > 0 for width, height in sizes[:-1])
    shown = browser.value("[...document.images].map((i) => [i.width, i.height])")[:-1]
    for (width, height), (natural_width, natural_height) in zip(shown, sizes, strict=False):
        assert width / height == pytest.approx(natural_width / natural_height, rel=0.02)


def test_the_table_of_contents_leads_to_each_section(browser):
    names = browser.value("[...document.querySelectorAll('section')].map((s) => s.id)")
    assert names == ["fig0", "fig1", "fig2", "fig7", "tables", "commands-left"]
    links = browser.value("[...document.querySelectorAll('nav a')].map((a) => a.hash.slice(1))")
    assert links == names
    for name in (*names[1:], names[0]):
        browser.value("document.documentElement.style.scrollBehavior = 'auto'")
        browser.click(f"document.querySelector('nav a[href=\"#{name}\"]')")
        browser.wait_for(f"location.hash === '#{name}'")
        top = f"document.getElementById('{name}').getBoundingClientRect().top"
        end = "innerHeight + scrollY >= document.documentElement.scrollHeight - 1"
        browser.wait_for(f"Math.abs({top} - 16) < 2 || ({end} && {top} < innerHeight)")
    browser.wait_for("document.querySelector('nav a[aria-current]')?.hash === '#fig0'")


def test_light_and_dark(browser, page):
    background = "getComputedStyle(document.body).backgroundColor"
    card = "getComputedStyle(document.querySelector('.picture')).backgroundColor"
    light = browser.value(background)
    browser.click("document.querySelector('#theme')")
    dark = browser.value(background)
    assert light != dark and browser.value(card) == "rgb(255, 255, 255)"
    browser.open(page.as_uri() + "?again")
    assert browser.value(background) == dark  # remembered
    browser.click("document.querySelector('#theme')")
    assert browser.value(background) == light
    browser.value("localStorage.clear()")
    browser.prefer("dark")  # the system's choice, without a click
    browser.open(page.as_uri() + "?dark")
    assert browser.value(background) == dark
    browser.click("document.querySelector('#theme')")
    assert browser.value(background) == light


def test_a_click_enlarges_a_picture_and_another_closes_it(browser):
    opened = "document.querySelector('dialog').open"
    large = "document.querySelector('dialog img')"
    for name, close in (("fig1", "click"), ("fig7", "Escape"), ("fig2", "click")):
        picture = f"document.querySelector('#{name} img')"
        small = browser.value(f"{picture}.width")
        browser.click(picture)
        browser.wait_for(f"{opened} && {large}.complete && {large}.naturalWidth > 0")
        assert browser.value(f"{large}.src === {picture}.src && {large}.alt === {picture}.alt")
        assert browser.value(f"{large}.getBoundingClientRect().width") > 1.2 * small
        browser.press("Escape") if close == "Escape" else browser.click(large)
        browser.wait_for(f"!{opened}")
    assert browser.value("location.pathname").endswith("/index.html")  # not to the file


def test_keyboard_alone_enlarges_too(browser):
    browser.value("document.querySelector('#fig0 .picture').focus()")
    browser.press("Enter")
    browser.wait_for("document.querySelector('dialog').open")
    browser.press("Escape")
    browser.wait_for("!document.querySelector('dialog').open")


def test_a_command_is_copied_as_it_is(browser):
    button = "document.querySelector('#fig7 .command button')"
    for allowed, said in ((True, "copied"), (False, "selected: Ctrl+C")):
        permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"][: 2 * allowed]
        browser.call("Browser.grantPermissions", permissions=permissions)
        browser.click(button)
        browser.wait_for(f"{button}.textContent === '{said}'")
        assert browser.value("getSelection().toString()") == COMMAND
        if allowed:
            assert browser.value("navigator.clipboard.readText()") == COMMAND
    browser.wait_for(f"{button}.textContent === 'copy'")


@pytest.mark.parametrize("width", [1200, 800, 420, 320])
def test_nothing_is_wider_than_the_window(browser, width):
    browser.resize(width, 900)
    assert browser.value("document.documentElement.scrollWidth") <= width
    sticking_out = """[...document.querySelectorAll('h1, h2, p, img, .command, .scroll, button')]
        .filter((e) => !e.closest('dialog')).filter((e) => {
            const box = e.getBoundingClientRect();
            return box.right > innerWidth + 1 || box.left < -1;
        }).map((e) => e.outerHTML.slice(0, 80))"""
    assert browser.value(sticking_out) == []
    browser.resize(1200, 900)


def test_on_paper_it_is_light_and_without_buttons(browser):
    browser.prefer("dark")
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.value("getComputedStyle(document.querySelector('#theme')).display") == "none"
    assert browser.value("getComputedStyle(document.body).color") == "rgb(26, 29, 33)"
    pdf = browser.call("Page.printToPDF")["data"]
    assert len(pdf) > 10_000
    browser.call("Emulation.setEmulatedMedia", media="")


def test_screenshots_to_look_at(browser, page, tmp_path):
    """Left in pytest's folder: /tmp/pytest-of-.../test_screenshots_to_look_at0."""
    brightness = {}
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        for width in (1200, 420):
            browser.open(f"{page.as_uri()}?{scheme}{width}", width)
            path = tmp_path / f"{scheme}_{width}.png"
            browser.screenshot(path)
            picture = Image.open(io.BytesIO(path.read_bytes())).convert("L")
            assert picture.size == (width, 900)
            brightness[scheme, width] = np.asarray(picture)[:, :8].mean()  # the margin
    assert all(brightness["light", w] > 200 > 60 > brightness["dark", w] for w in (1200, 420))
