"""The report's section of teachers: scores, cost and masks of a suite's rows of masks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from PIL import Image

import report
from experiments.figures.commands import cost
from experiments.figures.runs import read_inputs
from experiments.figures.teachers import draw, table_of_networks
from experiments.suite_file import read_suite
from utils.config import load_config
from utils.safe.errors import InputError

SMALL = {"miou": 0.3, "miou_small": 0.125, "miou_large": None, "num_images": tiny_run.COUNT}


def row(stage: str, miou: dict[str, float], **metrics: object) -> dict:
    """A row of ablation.json with these mIoU by seed."""
    values = [{"mIoU": value, "small": 12.5, "large": None} for value in miou.values()]
    mean = {"mIoU": float(np.mean([*miou.values()])) if miou else None}
    std = {"mIoU": float(np.std([*miou.values()], ddof=1)) if len(miou) > 1 else None}
    scores = {seed: SMALL | {"miou": value / 100} | metrics for seed, value in miou.items()}
    result = {"stage": stage, "settings": {}, "seeds": dict(zip(miou, values, strict=True))}
    return result | {"mean": mean, "std": std, "metrics": scores}


def measured(seconds: float, **changes: object) -> dict:
    """A cost.json."""
    found = {"images": 5, "seconds_per_image": seconds, "peak_memory": 2**29, "device": "cpu"}
    return {"cost": found | {"threads": 2, "processes": 1} | changes}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of a suite of seven teachers, whose masks have as many rows of poles as their number;
    the last one was not measured."""
    config = load_config(tiny_run.make_run(tmp_path) / "warmup/config.yaml")
    rows = {f"T{i}": row("masks", {"0": 10.0 + i}, **measured(0.1 * i)) for i in range(6)}
    rows["T6"] = row("masks", {"0": 16.0})
    folder = tmp_path / "suite"
    for i, name in enumerate(rows):
        masks = folder / f"{name.lower()}-masks"
        for k in range(tiny_run.COUNT):
            mask = np.zeros(tiny_run.SIZE)
            mask[:i] = 1
            tiny_run.save(masks / f"t{k}.png", mask)
        meta = {"config": config.to_dict(), "made_from": {}}
        (masks / "meta.json").write_text(json.dumps(meta))
    write(folder, rows)
    return folder


def write(folder: Path, rows: dict) -> None:
    content = {"rows": rows, "settings": {}, "split": "train", "config": "c.yaml"}
    (folder / "ablation.json").write_text(json.dumps(content | {"suite": "s.yaml"}))


def drawn(folder: Path, images: int | list[str] = 2) -> list:
    return draw(read_inputs([str(folder)])[1], images, folder / "out")


def test_scores_and_cost_of_each_teacher(folder) -> None:
    chart, _ = drawn(folder)
    lines = chart.tables[0].splitlines()
    assert len(chart.tables) == 1  # nothing learned from them
    assert lines[0] == "| teacher | mIoU | small | large | seconds an image | peak memory, GiB |"
    assert lines[3] == "| T1 | 11.0 | 12.5 | - | 0.1 | 0.50 |"
    assert lines[8] == "| T6 | 16.0 | 12.5 | - | - | - |"
    assert "over 5 images" in chart.caption and "on 2 threads of a CPU" in chart.caption
    assert chart.images[0].is_file() and chart.images[0].with_suffix(".svg").is_file()
    data = json.loads(chart.data.read_text())["teachers"]
    assert [one["name"] for one in data] == [f"T{i}" for i in range(7)]
    assert data[2]["seconds"] == pytest.approx(0.2) and data[6]["seconds"] is None


def test_measurements_on_a_gpu_are_named_so(folder) -> None:
    rows = {"T0": row("masks", {"0": 1.0}, **measured(0.1, device="NVIDIA H100"))}
    write(folder, rows)
    assert "memory of tensors on the GPU, on NVIDIA H100" in drawn(folder)[0].caption
    write(folder, rows | {"T1": row("masks", {"0": 1.0}, **measured(0.1))})
    caption = drawn(folder)[0].caption
    assert "of the process or of tensors on the GPU, on NVIDIA H100 or 2 threads" in caption


def test_masks_side_by_side_in_as_many_galleries_as_are_readable(folder) -> None:
    figure = drawn(folder)[1]
    assert len(figure.images) == len(figure.galleries) == 2 and figure.missing == ()
    titles = [gallery.titles for gallery in figure.galleries]
    assert titles[0] == ["image", "ground truth", *(f"T{i}\nmIoU {10 + i}.0" for i in range(3))]
    assert titles[1] == ["image", "ground truth", *(f"T{i}\nmIoU {10 + i}.0" for i in range(3, 7))]
    for gallery in figure.galleries:
        names = [name for name, _ in gallery.legend]
        assert names == ["road", "pole", "sky", "not labelled"]
        assert gallery.notes == ["t0", "t3"]
    # each column shows its own teacher: the share of poles grows from the left to the right
    colour = figure.galleries[1].legend[1][1]
    with Image.open(figure.images[1]) as image:
        poles = (np.asarray(image) == colour).all(2)
    columns = np.array_split(poles, len(titles[1]), axis=1)[2:]
    counts = np.array([column[: len(column) // 2].sum() for column in columns])
    assert counts == pytest.approx(counts[0] * np.array([3, 4, 5, 6]) / 3, rel=0.1)


def test_images_asked_for(folder) -> None:
    figure = drawn(folder, ["t5", "t1"])[1]
    assert figure.galleries[0].notes == ["t5", "t1"] and "as asked for" in figure.caption
    assert "no image x" in drawn(folder, ["x"])[1].missing[0].what


def test_numbers_alone_as_brought_from_another_machine(folder) -> None:
    for path in folder.glob("*-masks/meta.json"):
        path.unlink()
    chart, masks = drawn(folder)
    assert chart.tables and masks.images == () and "no folder here" in masks.missing[0].what


def test_a_suite_without_teachers_and_one_of_which_none_is_made(folder) -> None:
    write(folder, {"Base": row("warmup", {"0": 30.0})})
    assert drawn(folder) == []
    write(folder, {"T0": row("masks", {})})
    assert drawn(folder) == []


def test_teachers_and_the_networks_that_learned_from_them(folder) -> None:
    rows = {
        "T0, masks": row("masks", {"0": 20.0}, **measured(0.5)),
        "T0, Base": row("warmup", {"0": 30.0, "1": 32.0}),
        "T1, windows, Base": row("warmup", {"0": 33.0}),
        "T1, windows, Dual + CARB": row("carb", {}),
    }
    write(folder, rows)
    ((suite,), chart) = read_inputs([str(folder)])[1], drawn(folder)[0]
    lines = table_of_networks(suite).splitlines()
    assert lines[0] == "| mIoU, % | masks | Base | Dual + CARB |"
    assert lines[2:] == ["| T0 | 20.0 | 31.0 ± 1.4 |  |", "| T1, windows |  | 33.0 | not run |"]
    assert chart.tables[1].splitlines() == lines
    assert chart.tables[0].splitlines()[2].startswith("| T0 | 20.0 ")


@pytest.mark.parametrize("value", ["1", [1], {}])
def test_a_damaged_cost_is_refused(folder, value) -> None:
    write(folder, {"T0": row("masks", {"0": 1.0}, **measured(value))})
    with pytest.raises(InputError, match="expected a number as 'seconds_per_image'"):
        drawn(folder)


def test_the_page_of_a_suite_that_trains_nothing(folder, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    report.main([str(folder), "--only", "teachers", "tables", "--out", "page", "--images", "1"])
    page = Path("page/index.html").read_text(encoding="utf-8")
    assert "Masks of the teachers" in page and "run folders are not here" not in page
    assert page.count('class="gallery"') == 2
    assert "has no run folders beside it" not in page
    assert "standard deviation over the seeds, then" not in page
    assert "3 figures drawn" in capsys.readouterr().out  # and the table of the suite


def test_estimate_of_the_time(tmp_path, monkeypatch) -> None:
    config = tiny_run.make_run(tmp_path) / "warmup/config.yaml"
    rows = "A: {stage: masks}, B: {stage: masks, teacher: fast}"
    suite = tmp_path / "s.yaml"
    text = f"config: {config}\nsplit: train\nseeds: [0]\nmake_masks: false\ncontrasts: {{}}\n"
    suite.write_text(f"{text}rows: {{{rows}}}\n")
    command = f"python -m experiments.ablation {suite} --out out"
    assert cost(command, []) == "minutes: masks of 6 images from 2 teachers"
    suite.write_text(f"{text}rows: {{{rows}, C: {{stage: warmup}}}}\n")
    assert "at most 1 training of" in cost(command, [])


NAMES = ("experiments/suites/cityscapes", "demo/suites/demo")


def test_the_demo_compares_the_readouts_that_cityscapes_does() -> None:
    city, demo = (read_suite(f"{name}_readouts.yaml", []) for name in NAMES)
    assert city.rows.keys() < demo.rows.keys()  # the demo has some more
    for title, pairs in city.contrasts.items():
        assert all(pair in demo.contrasts[title] for pair in pairs), title
    assert not any(row.stage != "masks" for suite in (city, demo) for row in suite.rows.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_teachers_names_its_teacher(name) -> None:
    """The same teacher makes the masks that are scored and those that Base learns from."""
    suite = read_suite(f"{name}_teachers.yaml", [])
    teachers: dict[str, dict] = {}
    for row in suite.rows.values():
        teacher, _, what = row.name.rpartition(", ")
        teachers.setdefault(teacher, {})[what] = suite.config_of(row, 0)
    folders = set()
    for name, found in teachers.items():
        masks, base, *same, carb = found.values()
        assert list(found)[:2] == ["masks", "Base"] and "CARB" in list(found)[-1]
        assert list(found)[2:-1] == ["Base + CARB"] * len(same)
        for one in (base, *same):  # Base + CARB goes on from Base
            assert masks.stored_teacher == one.stored_teacher, name
            assert one.views == "base" and one.pseudo_masks == base.pseudo_masks
        used = carb.teacher if carb.views == "dual" else carb.stored_teacher
        # In the step the demo's windows touch, for speed.
        assert replace(used, stride=None) == replace(masks.stored_teacher, stride=None), name
        assert all(one.carb for one in (*same, carb)) and base.steps == carb.steps
        folders.add(base.pseudo_masks)
    assert len(folders) == len(teachers)  # no two teachers' masks in one folder
