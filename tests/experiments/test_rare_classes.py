"""Lost classes and the worst class: in the tables of a suite, and in figures/rare_classes.py."""

import json

import pytest

from experiments.figures.rare_classes import changes_of, draw
from experiments.figures.runs import Suite
from experiments.numbers import kept_table, lost_classes, suite_tables, summary, worst_class

CLASSES = ("road", "fence", "rider", "train", "pole")
PIXELS = (800, 100, 60, 0, 40)


def metrics(*ious: float | None) -> dict:
    found = zip(CLASSES, ious, PIXELS, strict=True)
    return {"classes": {name: {"iou": iou, "ground_truth": n} for name, iou, n in found}}


def content(**rows: list[dict]) -> dict:
    found = {
        name: {"stage": "carb", "settings": {}, "metrics": {str(i): m for i, m in enumerate(one)}}
        | summary({str(i): {"mIoU": 30.0} for i in range(len(one))})
        for name, one in rows.items()
    }
    against = {"Plain": [name for name in rows if name != "Plain"]}
    return {"rows": found, "against": against, "config": "demo/config.yaml", "split": "val"}


PLAIN = metrics(0.8, 0.2, 0.03, None, 0.02)
BAD = metrics(0.9, 0.09, 0.015, 0.5, 0.0)
GOOD = metrics(0.8, 0.25, 0.02, None, 0.02)
SUITE = {"Plain": [PLAIN, PLAIN], "Bad": [BAD, GOOD], "Good": [GOOD], "Not run": []}


def test_lost_classes_by_hand() -> None:
    """rider: half is not below half; pole: below 3 there is nothing to lose; train: no IoU."""
    assert lost_classes(BAD, PLAIN) == ["fence"] and lost_classes(GOOD, PLAIN) == []
    assert lost_classes(metrics(0.8, 0.2, 0.0149, None, 0.0), PLAIN) == ["rider"]
    assert worst_class(BAD, PLAIN) == ("fence", pytest.approx(-11))
    assert worst_class(GOOD, PLAIN) == ("rider", pytest.approx(-1))
    assert worst_class({}, PLAIN) is None and lost_classes(PLAIN, {}) == []


def test_table_of_lost_classes() -> None:
    found = content(**SUITE)
    table = kept_table("Plain", ["Bad", "Good", "Not run"], found["rows"])
    lines = [
        "| Bad | 1 0 | fence | -6.0 ± 7.1 | fence -11.0, rider -1.0 |",
        "| Good | 0 | none | -1.0 | rider -1.0 |",
    ]
    assert table.splitlines()[-2:] == lines
    assert "**Classes lost against Plain**" in table and "at least 3;" in table
    assert table in suite_tables(found)
    assert "lost" not in suite_tables(found | {"against": {}})
    assert kept_table("Not run", ["Plain"], found["rows"]) == ""


def test_figure_of_the_changes(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    found = content(**SUITE)
    bad, good = changes_of(found["rows"], "Plain", ["Bad", "Good", "Not run"])
    assert bad.change == pytest.approx({"road": 5, "fence": -3, "rider": -1.25, "pole": -1})
    assert (bad.lost, good.lost) == (["fence"], []) and good.change["fence"] == pytest.approx(5)
    (figure,) = draw([Suite("my suite", tmp_path, found)], tmp_path / "out")
    data = json.loads(figure.data.read_text())
    assert [one["name"] for one in data["classes"]] == ["pole", "rider", "fence", "road"]
    assert [one["share"] for one in data["classes"]] == pytest.approx([4, 6, 10, 80])
    assert [one["is_small"] for one in data["classes"]] == [True, True, False, False]
    assert [row["label"] for row in data["rows"]] == ["Bad", "Good"] and data["against"] == "Plain"
    assert "Small classes are marked" in figure.caption
    svg = figure.images[0].with_suffix(".svg").read_text()
    assert "<!-- ● rider (6 %) -->" in svg and svg.count("<!-- Bad -->") == 1


def test_other_suites_have_no_such_figure(tmp_path) -> None:
    found = content(**SUITE)
    others = [found | {"against": {}}, content(Plain=[PLAIN], Other=[])]
    assert draw([Suite("a", tmp_path, one) for one in others], tmp_path) == []


def test_two_plain_rows_have_a_table_and_a_figure_each(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    found = content(**SUITE) | {"against": {"Plain": ["Bad"], "Good": ["Bad"]}}
    tables = suite_tables(found)
    assert "**Classes lost against Plain**" in tables and "**Classes lost against Good**" in tables
    figures = draw([Suite("a", tmp_path, found)], tmp_path / "out")
    assert [one.name for one in figures] == ["rare_classes_a_plain", "rare_classes_a_good"]
    assert all(one.title == "Classes that are kept and lost (a)" for one in figures)
