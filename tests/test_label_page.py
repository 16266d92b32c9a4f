"""The page of suggested labels in a real browser, clicked through by a user; its CSV files."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser

from datasets.doctor import label_page
from datasets.doctor.label_page import (
    PageImages,
    Suggestions,
    table_lines,
    write_page,
    write_tables,
)
from datasets.image_labels import read_image_labels
from datasets.labels import ClassTable

ATTACK = "</script><script>document.title = 'taken'</script><img src=x onerror=alert(1)>"
NAMES = ("road", 'a "traffic" light, small', ATTACK, *(f"class {k}" for k in range(3, 12)))
KEYS = ("a", "deep/b, c", f"{ATTACK}&amp;")
TICKED = np.arange(36).reshape(3, 12) % 5 == 0
LABELS = {key: tuple(np.nonzero(row)[0].tolist()) for key, row in zip(KEYS, TICKED, strict=True)}
CLASSES = ClassTable(
    NAMES, tuple((n,) for n in NAMES), np.arange(36, dtype=np.uint8).reshape(12, 3)
)
SCORES = np.linspace(0, 1, 36).reshape(3, 12)
FOUND = Suggestions(KEYS, TICKED, SCORES, np.full(12, 0.5), np.zeros(3, bool))


def made(folder: Path, found: Suggestions = FOUND) -> Path:
    folder.mkdir()
    shown = PageImages(folder, len(KEYS))
    rng = np.random.default_rng(0)
    addresses = [shown.add(rng.integers(0, 256, (20, 30, 3), np.uint8)) for _ in KEYS]
    write_tables(folder, found, CLASSES)
    return write_page(folder, found, addresses, CLASSES, ("python <b>x</b> 'a b'", "again <b>"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("labels") / "page")


@pytest.fixture
def browser(started: Browser, page: Path, tmp_path: Path) -> Iterator[Browser]:
    """The page, freshly opened; nothing may have been said or fetched from elsewhere at the end."""
    started.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    started.open(page.as_uri())
    started.value("saved = table(), localStorage.clear()")
    started.events.clear()
    started.open(page.as_uri() + "?fresh")
    yield started
    started.value("saved = table()")
    assert started.complaints() == []
    own = ("data:", "blob:", page.parent.as_uri())
    assert [url for url in started.requests() if not url.startswith(own)] == []


def ticks(browser: Browser) -> tuple[int, ...]:
    """The ticked classes of the image in view."""
    boxes = "[...document.querySelectorAll('#classes input')].map((box) => box.checked)"
    return tuple(k for k, ticked in enumerate(browser.value(boxes)) if ticked)


def shown(browser: Browser, name: str) -> str:
    return browser.value(f"document.getElementById('{name}').textContent")


def read_saved(
    browser: Browser, folder: Path, button: str = "save", name: str = "labels.csv"
) -> dict[str, tuple[int, ...]]:
    """What the label reader makes of the file that a click on a button downloads."""
    browser.click(f"document.getElementById('{button}')")
    end = time.monotonic() + 10
    while not (path := folder / name).exists():
        assert time.monotonic() < end, "nothing was downloaded"
        time.sleep(0.02)
    labels = read_image_labels(path, len(NAMES), NAMES)
    path.unlink()
    return labels


# ---------------------------------------------------------------- the files, without a browser


def test_the_tables_are_read_as_labels(page) -> None:
    folder = page.parent
    assert read_image_labels(folder / "suggested.csv", len(NAMES), NAMES) == LABELS
    lines = (folder / "suggested.csv").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "a,1,0,0,0,0,1,0,0,0,0,1,0" and lines[2].startswith('"deep/b, c",0,0,0,1')
    first = (folder / "scores.csv").read_text(encoding="utf-8").splitlines()[1]
    assert first.startswith("a,0.0000,0.0286,0.0571")


def test_odd_names_stay_in_their_cells() -> None:
    header, line = table_lines(["a\r\nb,c"], [[1, 0]], ['say "x"', "y"])
    assert (header, line) == ('image,"say ""x""",y', '"a\r\nb,c",1,0')


def test_foreign_text_is_never_html(page) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<img src=x" not in text and "<b>" not in text
    assert text.count("<script") == 2 == text.count("</script>")


def test_many_images_lie_beside_the_page(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(label_page, "MOST_INSIDE", 2)
    text = made(tmp_path / "page").read_text(encoding="utf-8")
    files = sorted(path.name for path in (tmp_path / "page/page_images").iterdir())
    assert files == ["000001.jpg", "000002.jpg", "000003.jpg"]
    assert all(f'"page_images/{name}"' in text for name in files) and "base64" not in text
    label_page.check_page_folder(tmp_path / "page", overwrite=True)
    assert list((tmp_path / "page").rglob("*.jpg"))  # an error that follows costs no image
    label_page.remove_page_images(tmp_path / "page")  # the next page has its own
    assert not list((tmp_path / "page/page_images").iterdir())


def test_a_large_image_is_reduced(tmp_path) -> None:
    address = PageImages(tmp_path, 1).add(np.zeros((1000, 2000, 3), np.uint8))
    assert address.startswith("data:image/jpeg;base64,") and len(address) < 20_000


# ---------------------------------------------------------------- in the browser


def test_images_beside_the_page_are_shown(started, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(label_page, "MOST_INSIDE", 2)
    started.open(made(tmp_path / "page").as_uri())
    image = "document.getElementById('image')"
    started.wait_for(f"{image}.complete && {image}.naturalWidth === 30")
    started.press("ArrowRight")
    started.wait_for(f"{image}.src.endsWith('/000002.jpg') && {image}.naturalWidth === 30")
    assert started.complaints() == []


def test_the_suggestion_is_ticked_and_saved_as_it_was(browser, page, tmp_path) -> None:
    assert ticks(browser) == LABELS["a"]
    assert browser.value("document.getElementById('image').naturalWidth") == 30
    assert read_saved(browser, tmp_path) == LABELS
    assert browser.value("table()") == (page.parent / "suggested.csv").read_text(encoding="utf-8")
    assert shown(browser, "said") == "saved labels.csv; 3 not checked yet"


def test_clicks_and_keys_tick_and_the_file_has_it(browser, tmp_path) -> None:
    browser.click("document.querySelectorAll('#classes label')[1].querySelector('.name')")
    browser.click("document.querySelectorAll('#classes input')[0]")
    assert ticks(browser) == (1, 5, 10)
    browser.press("9")
    browser.press("a")  # of the tenth class
    browser.press("z")  # of no class
    assert ticks(browser) == (1, 5, 8, 9, 10)
    browser.press("9")
    browser.press("ArrowRight")
    assert ticks(browser) == LABELS["deep/b, c"] and shown(browser, "title").startswith("2 of 3")
    browser.press("C")  # with capitals locked
    browser.click("document.getElementById('previous')")
    assert ticks(browser) == (1, 5, 9, 10)
    assert shown(browser, "progress") == "2 of 3 checked, 4 ticks changed"
    expected = LABELS | {"a": (1, 5, 9, 10), "deep/b, c": (3, 8, 11)}
    assert read_saved(browser, tmp_path) == expected


def test_the_checked_ones_are_saved_alone_and_are_checked_again_later(browser, tmp_path) -> None:
    browser.click("document.getElementById('save-checked')")
    assert shown(browser, "said") == "no image is checked yet"
    browser.click("document.querySelectorAll('#strip button')[2]")
    browser.press("2")
    browser.press("ArrowLeft")
    browser.click("document.querySelector('summary')")
    checked = read_saved(browser, tmp_path, "save-checked", "checked.csv")
    assert checked == {"a": LABELS["a"], KEYS[2]: tuple(sorted({*LABELS[KEYS[2]]} ^ {1}))}
    assert shown(browser, "said") == "saved checked.csv: 2 of 3"
    page = made(tmp_path / "page", FOUND._replace(checked=np.array([True, False, True])))
    browser.value("saved = table()")
    browser.open(page.as_uri())
    assert shown(browser, "progress") == "2 of 3 checked, 0 ticks changed"
    assert shown(browser, "said") == ""
    browser.events.clear()


def test_classes_without_a_key_say_so_and_are_clickable(started, tmp_path) -> None:
    names = tuple(f"class {k}" for k in range(37))
    table = ClassTable(names, tuple((n,) for n in names), np.zeros((37, 3), np.uint8))
    labels, scores = np.zeros((1, 37), bool), np.zeros((1, 37))
    found = Suggestions(["a"], labels, scores, scores[0], np.zeros(1, bool))
    started.open(write_page(tmp_path, found, [""], table, ("one", "two")).as_uri())
    started.press("z")
    started.click("document.querySelectorAll('#classes label')[35]")
    started.click("document.querySelectorAll('#classes label')[36]")
    assert ticks(started) == (34, 35, 36)
    before = "document.getElementById('keyless')"
    assert started.value(f"{before}.textContent").startswith("No keys are left: click")
    assert started.value(f"{before}.nextSibling.querySelector('.name').textContent") == "class 35"
    started.value("saved = table()")


def test_next_and_previous_stay_within_the_images(browser) -> None:
    browser.press("ArrowLeft")
    assert shown(browser, "title") == "1 of 3: a"
    for _ in range(3):
        browser.click("document.getElementById('next')")
    assert shown(browser, "title").startswith("3 of 3")
    assert shown(browser, "said") == "that was the last image: save the file"
    assert shown(browser, "progress") == "3 of 3 checked, 0 ticks changed"
    browser.click("document.querySelectorAll('#strip button')[0]")
    assert shown(browser, "title") == "1 of 3: a"


def test_foreign_names_are_shown_as_text(browser) -> None:
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    assert shown(browser, "title") == f"3 of 3: {KEYS[2]}"
    assert browser.value("document.title") == "Labels of 3 images"
    assert browser.value("document.images.length") == 1
    names = browser.value("[...document.querySelectorAll('.name')].map((e) => e.textContent)")
    assert names == list(NAMES)


def test_unsaved_ticks_are_kept_and_warned_of(browser, page, tmp_path) -> None:
    browser.press("2")
    browser.press("ArrowRight")
    browser.events.clear()
    browser.open(page.as_uri() + "?again")  # asks, as the ticks are not saved
    methods = [event.get("method") for event in browser.events]
    assert methods.count("Page.javascriptDialogOpening") == 1
    assert shown(browser, "said") == "went on where you stopped"
    assert shown(browser, "progress") == "1 of 3 checked, 1 tick changed"
    assert shown(browser, "title").startswith("2 of 3")
    saving = "document.getElementById('save').classList.contains('unsaved')"
    assert browser.value(saving)
    browser.press("s", ctrl=True)
    assert not browser.value(saving)
    browser.open(page.as_uri() + "?later")  # does not ask
    methods = [event.get("method") for event in browser.events]
    assert methods.count("Page.javascriptDialogOpening") == 1
    assert read_saved(browser, tmp_path)["a"] == (0, 1, 5, 10)


@pytest.mark.parametrize("stored", ["{", "null", '{"labels": ["01"]}', '{"labels": [1, 2, 3]}'])
def test_a_damaged_memory_is_ignored(browser, page, stored) -> None:
    browser.value(f"localStorage.setItem(STORED, {stored!r})")
    browser.open(page.as_uri() + "?damaged")
    assert ticks(browser) == LABELS["a"]


@pytest.mark.parametrize("width", [1400, 700, 360])
def test_nothing_is_wider_than_the_window(browser, width) -> None:
    browser.resize(width, 800)
    assert browser.value("document.documentElement.scrollWidth") <= width
