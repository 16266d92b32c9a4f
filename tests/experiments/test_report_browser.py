"""The page of report.py in a real browser: clicked through as a reader would."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from PIL import Image

from experiments.figures.galleries import Rows, save_gallery
from experiments.figures.page import Report, write_page
from experiments.figures.style import (
    Figure,
    Missing,
    markdown,
    plotting,
    save_data,
    save_figure,
)

COMMAND = "python eval.py --ckpt 'runs/a b/last.pt' --split val"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings, one of them without a narrow form, a gallery, an image of pixels, a wide table,
    something missing, something folded up, something failed."""
    out = tmp_path_factory.mktemp("report")
    pyplot = plotting()
    figures = []

    def draw(width: float):
        drawing, axes = pyplot.subplots(figsize=(width, 3))
        axes.plot([0, 1, 4, 9])
        return drawing

    for number in range(3):
        images = save_figure(draw, out / "figures", f"fig{number}", for_phones=number > 0)
        data = save_data(out / "figures", f"fig{number}", {"y": [0, 1, 4, 9]})
        figure = Figure(f"fig{number}", f"Fig. {number}: a line", "It rises.", images, data)
        figures.append(figure)
    pixels = out / "figures/pixels.png"
    noise = np.random.default_rng(0).integers(0, 256, (300, 1600, 3), np.uint8)
    Image.fromarray(noise).save(pixels)
    rows = [[noise[:, :400], noise[:, 400:800] // 128 * 255]] * 2
    names = ["road", "a sky with a long name"], np.uint8([[128, 64, 128], [70, 130, 180]])
    panels = Rows(rows, ["image", "pseudo-mask"], *names, ["val_0", "val_1"])
    gallery = save_gallery(out / "figures/gallery.png", panels)
    shown = (out / "figures/gallery.png",)
    wide = markdown([f"column {k}" for k in range(30)], [[str(k) for k in range(30)]])
    missing = (Missing("the predictions", COMMAND),)
    figures += [
        Figure("fig7", "Fig. 7: images", "Noise.", (pixels,), None, (wide,), missing),
        Figure("fig4", "Fig. 4: a gallery", "Two rows.", shown, galleries=(gallery,)),
        Figure("tables", "Tables: not drawn", "x.json can't be read"),
        Figure("fig6", "Fig. 6: a sweep", "", missing=(Missing("rows", "bash run.sh"),)),
    ]
    return write_page(
        Report("a test", "about it", "python report.py a", figures, frozenset(["tables"])), out
    )


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


def test_every_image_is_there(browser):
    sizes = browser.value("[...document.images].map((i) => [i.naturalWidth, i.naturalHeight])")
    assert (
        len(sizes) == 4 + 4 + 1
    )  # the last is that of the dialog, empty until an image is enlarged
    assert all(width > 0 and height > 0 for width, height in sizes[:-1])
    shown = browser.value("[...document.images].map((i) => [i.width, i.height])")[:-1]
    for (width, height), (natural_width, natural_height) in zip(shown, sizes, strict=False):
        assert width / height == pytest.approx(natural_width / natural_height, rel=0.02)


def test_the_table_of_contents_leads_to_each_section(browser):
    names = browser.value("[...document.querySelectorAll('section')].map((s) => s.id)")
    assert names == ["fig0", "fig1", "fig2", "fig7", "fig4", "tables", "fig6", "commands-left"]
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
    light = browser.value(background)
    browser.click("document.querySelector('#theme')")
    dark = browser.value(background)
    assert light != dark
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


def test_a_click_enlarges_an_image_and_another_closes_it(browser):
    opened = "document.querySelector('dialog').open"
    large = "document.querySelector('dialog img')"
    for name, close in (("fig1", "click"), ("fig7", "Escape"), ("fig2", "click")):
        shown = f"document.querySelector('#{name} img')"
        small = browser.value(f"{shown}.width")
        browser.click(shown)
        browser.wait_for(f"{opened} && {large}.complete && {large}.naturalWidth > 0")
        assert browser.value(f"{large}.src === {shown}.src && {large}.alt === {shown}.alt")
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
        .filter((e) => !e.closest('dialog, details:not([open]), .wide')).filter((e) => {
            const box = e.getBoundingClientRect();
            return box.right > innerWidth + 1 || box.left < -1;
        }).map((e) => e.outerHTML.slice(0, 80))"""
    assert browser.value(sticking_out) == []
    browser.resize(1200, 900)


@pytest.mark.parametrize("width", [360, 390])
def test_on_a_phone_letters_are_large_and_panels_stand_in_two_columns(browser, page, width):
    browser.open(f"{page.as_uri()}?phone", width)
    # 9 points are 12 pixels at a drawing's natural size
    for selector, least in (("#fig1 img", 11), ("#fig0 img", 9.5)):  # #fig0 scrolls sideways
        image = f"document.querySelector('{selector}')"
        assert 12 * browser.value(f"{image}.width / {image}.naturalWidth") >= least
    assert browser.value("document.querySelector('#fig1 img').currentSrc").startswith("data:image")
    panels = browser.value("[...document.querySelectorAll('.row img')].map((i) => i.width)")
    assert all(width / 3 < panel < width / 2 for panel in panels)
    captions = "[...document.querySelectorAll('figcaption')].map((e) => e.offsetHeight > 0)"
    assert all(browser.value(captions))
    assert not browser.value("document.querySelector('nav details').open")
    browser.open(f"{page.as_uri()}?wide")
    assert browser.value(captions) == [True, True, False, False]  # above the first row


def test_a_link_opens_what_is_folded_up(browser):
    folded = "document.querySelector('#fig6 > details')"
    assert not browser.value(f"{folded}.open")
    browser.click("document.querySelector('nav a[href=\"#fig6\"]')")
    browser.wait_for(f"{folded}.open")


def test_nothing_glares_in_the_dark(browser, page, tmp_path):
    browser.prefer("dark")
    browser.open(f"{page.as_uri()}?night")
    for selector in ("#fig0 img", "#fig1 img"):
        browser.click(f"document.querySelector('{selector}')")  # enlarged: on a dark ground too
        browser.screenshot(tmp_path / "dark.png")
        shown = np.asarray(Image.open(tmp_path / "dark.png").convert("L"))
        assert shown.mean() < 60 and (shown > 160).mean() < 0.05 and (shown > 160).any()
        browser.press("Escape")


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
            image = Image.open(io.BytesIO(path.read_bytes())).convert("L")
            assert image.size == (width, 900)
            brightness[scheme, width] = np.asarray(image)[:, :8].mean()  # the margin
    assert all(brightness["light", w] > 200 > 60 > brightness["dark", w] for w in (1200, 420))
