"""figures/tables.py: the paper's numbers, which runs stand beside them, and what is said else."""

import json
import statistics
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import yaml
from test_method_rows import plant

from experiments import ablation
from experiments.figures.runs import read_inputs
from experiments.figures.scored_runs import (
    PAPER,
    ScoredRun,
    exclusion_reason,
    read_scored_runs,
)
from experiments.figures.tables import draw, readme_tables
from experiments.numbers import suite_tables
from experiments.suite_file import read_suite
from utils.config import PRESETS, TeacherSettings, load_config, save_config

CITY = "configs/cityscapes.yaml"
FAST = PRESETS["teacher"]["fast"]
STORED_STRONG = TeacherSettings(stored=PRESETS["teacher"]["strong"])
SCORED = {"split": "val", "inference": {"scales": [1.0], "flip": False, "window": None}}


def metrics(config, miou: float, num_images: int = 500, **more: object) -> dict:
    classes = {"road": {"iou": miou + 0.2}, "pole": {"iou": None}}
    step = config.warmup_steps if more.get("stage") == "warmup" and config.carb else config.steps
    return (
        SCORED | {"step": step, "num_images": num_images, "miou": miou, "classes": classes} | more
    )


def write_stage(
    folder: Path, miou: float, path: str = CITY, changes: tuple = (), **scored: object
) -> Path:
    """A run folder of train_*.py with its scores; `folder` is called after the stage."""
    config = load_config(path, [f"{key}={json.dumps(value)}" for key, value in changes])
    split = scored.get("split", "val")
    (folder / f"eval_{split}").mkdir(parents=True, exist_ok=True)
    save_config(config, folder / "config.yaml")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "command.txt").write_text(f"train_{folder.name}.py\n")
    content = metrics(config, miou, stage=folder.name, **scored)
    (folder / f"eval_{split}/metrics.json").write_text(json.dumps(content))
    return folder.parent


def cell(path: str = CITY, stage: str = "carb", **changes: object) -> ScoredRun:
    scored = {k: changes.pop(k) for k in ("num_images", "inference") if k in changes}
    config = replace(load_config(path), **changes)
    return ScoredRun("run", stage, Path("run"), config, metrics(config, 0.5, **scored))


def table(figure) -> list[list[str]]:
    """The cells of a figure's first table, head and dashes left out."""
    lines = figure.tables[0].splitlines()[2:]
    return [[value.strip() for value in line.strip("|").split("|")] for line in lines]


def test_the_papers_numbers_stand_there_and_all_of_ours_is_said_to_be_missing(tmp_path) -> None:
    figures = {figure.name: figure for figure in draw([], [], tmp_path)}
    assert list(figures) == ["table1", "table2", "table3", "table4"]
    assert [row[:3] for row in table(figures["table1"])] == [
        ["Base", "40.1", "not run"],
        ["Base + CARB", "45.7", "not run"],
        ["Local", "45.1", "not run"],
        ["Local + CARB", "50.6", "not run"],
        ["Dual", "45.8", "not run"],
        ["Dual + CARB", "52.1", "not run"],
    ]
    rows = {row[0]: row[1:5] for row in table(figures["table2"])}
    assert len(rows) == 10 and rows["Ours"] == ["52.1", "not run", "51.8", "not run"]
    assert rows["SEAM"] == ["17.3", "not run", "-", "-"]  # where the paper has a number
    rows = {row[0]: row[1:5] for row in table(figures["table3"])}
    assert rows["CLIP-ES"] == ["41.7", "not run", "39.6", "not run"] and len(rows) == 9
    assert [row[1] for row in table(figures["table4"])] == [
        *("54.0", "15.2", "18.8", "1.0", "24.7", "32.2")
    ]
    for figure in figures.values():
        expected = sum("not run" in row for r in table(figure) for row in r)
        assert len(figure.missing) == expected and figure.data.is_file()
        for missing in figure.missing:
            files = [
                word for word in missing.command.split() if word.endswith((".py", ".sh", ".yaml"))
            ]
            assert files and all(Path(file).is_file() for file in files)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (cell(), ""),
        (cell("configs/official/cityscapes.yaml"), ""),
        (cell(lr=0.01, clip_model="weights/ViT-B-16.pt", backbone_weights="r50.pth"), ""),
        (cell(carb=False, stage="warmup"), ""),
        (cell("configs/camvid.yaml", num_images=101), ""),
        (cell("demo/config.yaml"), "another data set"),
        (cell(clip_model="demo/weights/clip.pt"), "the miniature CLIP"),
        (cell(clip_model="demo/weights/clip.pt", stage="supervised"), ""),
        (cell(views="local"), "masks not known to be CLIP's"),  # none lie there
        (cell(teacher=FAST), "another teacher"),
        (cell(teacher=FAST, stage="supervised"), ""),
        (cell(teacher=STORED_STRONG), ""),  # trained on the masks of the step alone
        (cell(backbone="resnet18"), "another backbone"),
        (cell(backbone="resnet50_caffe_c4"), "another backbone"),
        (cell(backbone_weights=None), "no or partial ImageNet weights"),
        (cell(backbone_weights_partial=True), "no or partial ImageNet weights"),
        (cell(num_images=10), "10 images, the split 'val' has 500"),
        (cell(inference={"scales": [0.75, 1.0]}), "several scales, flips or windows"),
        (cell(inference={"flip": True}), "several scales, flips or windows"),
        (cell(stage="warmup"), "the warm-up alone"),
        (cell(patch_size=(512, 512)), "a sweep over patch_size"),
        (cell(region_weight=0.5), "a sweep over region_weight"),
        (cell("configs/official/camvid.yaml", num_images=101), ""),  # with ratios of its own
    ],
)
def test_what_may_stand_beside_the_papers_numbers(found, reason) -> None:
    assert exclusion_reason(found) == reason


def test_stored_masks_must_be_clips(tmp_path) -> None:
    """gen_clip_masks.py leaves meta.json; a folder without one holds stand-ins."""
    found = cell(views="base", pseudo_masks=str(tmp_path))
    assert exclusion_reason(found) == "masks not known to be CLIP's"
    for clip, reason in (("ViT-B/16", ""), ("demo/weights/clip.pt", "masks not known")):
        meta = {"made_from": {}, "config": {"clip_model": clip}}
        (tmp_path / "meta.json").write_text(json.dumps(meta))
        strong = cell(views="base", pseudo_masks=str(tmp_path), teacher=STORED_STRONG)
        assert exclusion_reason(strong).endswith("another teacher")
        assert exclusion_reason(found).startswith(reason) and bool(exclusion_reason(found)) == bool(
            reason
        )


def test_seeds_are_one_line_and_other_settings_another(tmp_path) -> None:
    values = [0.51, 0.52, 0.54]
    folders = [
        write_stage(tmp_path / f"s{i}/carb", v, changes=(("seed", i), ("num_workers", i)))
        for i, v in enumerate(values)
    ]
    folders.append(
        write_stage(tmp_path / "fast/carb", 0.6, changes=(("lr", 0.01), ("steps", 20000)))
    )
    official = write_stage(tmp_path / "official/carb", 0.53, "configs/official/cityscapes.yaml")
    runs, _ = read_inputs([str(folder) for folder in [*folders, official]])
    figures = {figure.name: figure for figure in draw(runs, [], tmp_path / "out")}
    mean, std = (100 * f(values) for f in (statistics.mean, statistics.stdev))
    expected = [
        ["Dual + CARB", "52.1", f"{mean:.1f} ± {std:.1f} (3 seeds)", CITY],
        ["Dual + CARB, other settings", "-", "53.0 (1 seed)", "configs/official/cityscapes.yaml"],
        ["Dual + CARB, other settings", "-", "60.0 (1 seed)", f"{CITY}, steps 20000, lr 0.01"],
    ]
    assert table(figures["table1"])[-3:] == expected
    ours = [row[:3] + row[-1:] for row in table(figures["table2"])[-3:]]
    assert ours == [[row[0].replace("Dual + CARB", "Ours"), *row[1:]] for row in expected]
    data = json.loads(figures["table1"].data.read_text())["cells"]
    [entry] = [e for e in data if e["method"] == "Dual + CARB" and e["paper"]]
    assert (entry["mean"], entry["std"]) == (pytest.approx(mean), pytest.approx(std))
    assert list(entry["runs"].values()) == pytest.approx([100 * value for value in values])
    # IoU by class of ours only; what has no value has a dash
    by_class = figures["table1"].tables[1].splitlines()[2:]
    assert by_class[0].startswith("| class | Dual + CARB | Dual + CARB, configs/official")
    assert by_class[2].startswith(f"| road | {mean + 20:.1f} | 73.0 |")
    assert by_class[3].startswith("| pole | - |") and by_class[4].startswith(
        f"| **mean** | {mean:.1f}"
    )
    # the shipped settings are what the README shows
    results = readme_tables(runs, [], tmp_path)["results"]
    assert (
        f"| Cityscapes, Dual + CARB | 52.1 | not run here | {mean:.1f} ± {std:.1f} (3 seeds) |"
        in results
    )
    assert "| WildDash2, Dual + CARB | 32.2 | not run here | not run here |" in results
    # what is left is the server's
    test = [m for m in figures["table2"].missing if m.what.startswith("Cityscapes test: Ours")]
    assert len(test) == 1 and "server" in test[0].what and test[0].command == ""
    assert f"python eval.py --ckpt {tmp_path}/s0/carb/last.pt --split test" in test[0].what
    # a run is not there: no empty cell, and the figures keep their names
    assert table(figures["table2"])[1] == ["AffinityNet", "8.2", "not run", "-", "-", "-"]
    assert all(figure.data.stem == name for name, figure in figures.items())


def test_a_seed_that_was_trained_again_counts_once(tmp_path) -> None:
    """The default row of a sweep has the settings of Table 1's Dual + CARB."""
    folders = [
        write_stage(tmp_path / f"s{i}/carb", value, changes=(("seed", i % 2),))
        for i, value in enumerate((0.51, 0.53, 0.9))
    ]
    figures = draw(*read_inputs([str(folder) for folder in folders]), tmp_path / "out")
    assert table(figures[0])[-1][2] == "52.0 ± 1.4 (2 seeds)"
    assert table(figures[1])[-1][2] == "52.0 ± 1.4 (2 seeds)"


def test_other_methods_stand_in_the_papers_tables(tmp_path) -> None:
    """Networks that learned from their masks, without CARB, and the predictions of 1-Stage."""
    suite = read_suite("experiments/suites/cityscapes_table2.yaml", [])
    scores = {"CAM, masks": 0.6, "CAM": 0.3, "CLIP-ES": 0.35, "CLIP-ES + CARB": 0.5, "1-Stage": 0.1}
    scores |= {"Wang, Ma, and You": 0.2}
    for (name, miou), seed in product(scores.items(), (0, 1)):
        row = suite.rows[name]
        if not (row.seedless and seed):
            plant(suite, tmp_path / "out", name, seed, SCORED | {"miou": miou, "num_images": 500})
    ablation.main([suite.path, "--out", str(tmp_path / "out"), "--table-only"])
    inputs = read_inputs([str(tmp_path / "out")])
    [figure] = [one for one in draw(*inputs, tmp_path / "report") if one.name == "table2"]
    rows = {row[0]: row[1:3] for row in table(figure)}
    assert rows["CAM"] == ["33.0", "30.0 ± 0.0 (2 seeds)"]
    assert rows["CLIP-ES"] == ["35.4", "35.0 ± 0.0 (2 seeds)"]
    assert rows["1-Stage"] == ["11.8", "10.0 ± 0.0 (2 seeds)"]
    assert rows["SEAM"] == ["17.3", "not run"] and rows["Ours"] == ["52.1", "not run"]
    assert rows["Wang, Ma, and You"] == ["24.2", "20.0 ± 0.0 (2 seeds)"]
    assert "after their abstract" in figure.caption
    commands = {missing.what: missing.command for missing in figure.missing}
    file = "experiments/suites/cityscapes_table2.yaml"
    expected = f"python -m experiments.ablation {file} --out runs/cityscapes_table2"
    assert commands["Cityscapes val: SEAM"] == expected
    [of_test] = [what for what in commands if what.startswith("Cityscapes test: CAM")]
    assert "benchmark server" in of_test and "--export-submission" in of_test


def test_methods_with_settings_of_their_own_are_no_rows_of_the_paper(tmp_path) -> None:
    """The config of the second stage holds none of them."""
    rows = {"masks": {"method": "cam", "lr": 0.5}, "CAM": {"method": "clip_es"}}
    rows |= {"second": rows["masks"] | {"second_stage": True}}
    rows |= {"CLIP-ES": rows["CAM"] | {"second_stage": True}}
    values = {"config": CITY, "split": "val", "seeds": [0], "make_masks": False, "contrasts": {}}
    path, out = tmp_path / "suite.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(values | {"rows": rows}, sort_keys=False))
    suite = read_suite(str(path), ["clip_model=demo/weights/clip.pt"])
    for name in ("second", "CLIP-ES"):
        plant(suite, out, name, 0, SCORED | {"miou": 0.3, "num_images": 500})
    command = [
        str(path),
        "--out",
        str(out),
        "--table-only",
        "--set",
        "clip_model=demo/weights/clip.pt",
    ]
    ablation.main(command)
    found = {run.row: exclusion_reason(run) for run in read_scored_runs(*read_inputs([str(out)]))}
    assert found == {"CAM lr=0.5": "another method", "CLIP-ES": "the miniature CLIP"}


def test_another_split_is_one_evaluation_away(tmp_path) -> None:
    path = "configs/camvid.yaml"
    folder = write_stage(tmp_path / "a run/carb", 0.5, path, num_images=101)
    [figure] = [f for f in draw(*read_inputs([str(folder)]), tmp_path) if f.name == "table3"]
    [missing] = [m for m in figure.missing if m.what == "CamVid test: Ours"]
    assert missing.command == f"python eval.py --ckpt '{folder}/carb/last.pt' --split test"
    write_stage(folder / "carb", 0.45, path, num_images=233, split="test")
    [figure] = [f for f in draw(*read_inputs([str(folder)]), tmp_path) if f.name == "table3"]
    assert table(figure)[-1] == ["Ours", "55.7", "50.0 (1 seed)", "50.5", "45.0 (1 seed)", path]
    assert figure.tables[1].splitlines()[2] == "| class | Dual + CARB | Dual + CARB, test |"
    assert not [m for m in figure.missing if "Ours" in m.what]


def test_our_evaluation_of_the_authors_checkpoints(tmp_path) -> None:
    for name, number in (("cityscapes_dual", 500), ("cityscapes_local", 7)):
        (tmp_path / name).mkdir()
        content = SCORED | {"stage": "official", "num_images": number, "miou": 0.5214}
        (tmp_path / name / "metrics.json").write_text(json.dumps(content))
    lines = readme_tables([], [], tmp_path)["results"].splitlines()
    assert lines[2] == "| Cityscapes, Dual + CARB | 52.1 | 52.1 | not run here |"
    assert (
        lines[3] == "| Cityscapes, Local + CARB | 50.6 | not run here | not run here |"
    )  # 7 images


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """OUT of a suite on Cityscapes: Dual + CARB with two seeds, one without scores, and a sweep."""
    rows = {
        "Dual": {"stage": "warmup"},
        "Dual + CARB": {"stage": "carb"},
        "Small": {"stage": "carb", "patch_size": [64, 64]},
    }
    values = {"config": CITY, "split": "val", "seeds": [0, 1], "make_masks": False, "rows": rows}
    values["contrasts"] = {"CARB": [["Dual + CARB", "Dual"]]}
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    out = tmp_path / "my suite"
    read = read_suite(str(path), [])
    for name, seed, miou in (("Dual + CARB", 0, 0.5), ("Dual + CARB", 1, 0.52), ("Small", 0, 0.4)):
        row = read.rows[name]
        folder = out / row.folder(seed)
        (folder / "eval_val").mkdir(parents=True)
        save_config(read.config_of(row, seed), folder / "config.yaml")
        (folder / "metrics.jsonl").write_text('{"step": 1}\n')
        content = metrics(read.config_of(row, seed), miou, miou_small=0.1)
        (folder / "eval_val/metrics.json").write_text(json.dumps(content))
    ablation.main([str(path), "--out", str(out), "--table-only"])
    return out


def test_a_suite_has_its_own_table_and_fills_the_papers(suite, tmp_path) -> None:
    runs, suites = read_inputs([str(suite), str(suite / "dual_carb_1")])  # and once more by itself
    figures = {figure.name: figure for figure in draw(runs, suites, tmp_path / "out")}
    assert list(figures)[4:] == ["suite_my_suite"]  # no table of other runs
    own = figures["suite_my_suite"]
    assert own.tables[0] == suite_tables(suites[0].content)
    assert readme_tables(runs, suites, tmp_path)["my suite"] == own.tables[0]
    assert "| Dual + CARB | 2 | 51.0 ± 1.4 | 10.0 ± 0.0 | - | 50.0 | 52.0 |" in own.tables[0]
    assert "| road | 71.0 | 60.0 |" in own.tables[1]
    assert "(500 images)" in own.caption and "a sweep over patch_size" in own.caption
    assert own.title == "Results of my suite" and own.leads
    [missing] = own.missing
    assert missing.what == "rows not run: Dual" and f"--out '{suite}'" in missing.command
    assert missing.command.endswith("--rows Dual --seeds 0 1")
    assert table(figures["table1"])[-1][:3] == ["Dual + CARB", "52.1", "51.0 ± 1.4 (2 seeds)"]
    data = json.loads(own.data.read_text())
    assert data["iou_by_class"]["Dual + CARB"]["road"]["mean"] == pytest.approx(71)


def test_all_else_is_headed_as_such_with_the_reason(tmp_path) -> None:
    demo = "demo/config.yaml"
    folders = [
        write_stage(tmp_path / f"demo_{i}/carb", v, demo, (("seed", i),), num_images=100)
        for i, v in enumerate((0.4, 0.42))
    ]
    write_stage(tmp_path / "demo_0/warmup", 0.38, demo, num_images=100)
    runs, _ = read_inputs([str(folder) for folder in folders])
    figures = draw(runs, [], tmp_path / "out")
    other = figures[-1]
    assert other.name == "other_runs" and not other.folded  # it has a mean over seeds
    where, reason = "folder val (100 images)", "another data set"
    assert table(other) == [
        ["demo_0", "Dual, the warm-up alone", where, "1", "38.0", "-", "-", reason],
        ["demo_0, demo_1", "Dual + CARB", where, "2", "41.0 ± 1.4", "-", "-", reason],
    ]
    assert all("not run" in f.tables[0] and "41.0" not in "".join(f.tables) for f in figures[:4])
    assert readme_tables(runs, [], tmp_path) == {}


def test_an_unfinished_run_counts_nowhere(tmp_path) -> None:
    folder = write_stage(tmp_path / "run/carb", 0.5, step=20000)
    figures = draw(*read_inputs([str(folder)]), tmp_path / "out")
    assert len(figures) == 4 and "50.0" not in "".join(f.tables[0] for f in figures)


def test_every_number_of_the_paper_is_a_percentage() -> None:
    for name, content in PAPER.items():
        for values in content.get("rows", {}).values():
            assert len(values) == len(content["splits"]), name
            assert all(v is None or 0 < v < 100 for v in values)
