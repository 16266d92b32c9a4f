"""Rows of a suite that run a method of baselines/: commands, results, tables."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import test_ablation
import tiny

from experiments import ablation
from experiments.figures.cams import read_masks
from experiments.figures.runs import read_inputs, run_of, run_of_row
from experiments.figures.scored_runs import by_settings, exclusion_reason, read_scored_runs
from experiments.figures.sections import shown_runs
from experiments.figures.tables import suite_table
from experiments.methods import METHODS
from experiments.numbers import scores_of_method
from experiments.suite_file import Suite, read_suite
from experiments.table import collect, record_of
from utils.config import save_config
from utils.safe.errors import InputError

ROWS = {
    "Points": {"method": "points", "options": ["--without", "masks"], "lr": 0.02},
    "Discs": {"method": "points", "options": ["--discs", 8], "lr": 0.02},
    "All pixels": {"method": "supervised", "classifier": "conv"},
    "CAM": {"method": "support_net", "options": ["--without", "rcm", "mam"]},
    "+ both": {"method": "support_net"},
    "+ both, second": {"method": "support_net", "second_stage": True},
}
CONTRASTS = {"Both": [["+ both", "CAM"]]}


def write_suite(folder: Path, **changes: object) -> str:
    """A suite of methods on a tiny config, two seeds."""
    ours = {"make_masks": False, "rows": ROWS, "contrasts": CONTRASTS}
    config = tiny.make_config(folder, steps=4, warmup_steps=2)
    return str(test_ablation.write_suite(folder, config, **(ours | changes)))


def commands_of(suite: Suite, out: Path) -> tuple[dict[str, list], dict[str, list]]:
    """Job -> commands of the seed 1: first, later."""
    masks, first, later = test_ablation.planned(suite, [*suite.rows.values()], [1], out)
    assert not masks
    return tuple({job.name: job.commands for job in jobs} for jobs in (first, later))


def value(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_commands(tmp_path: Path) -> None:
    suite = read_suite(write_suite(tmp_path), [])
    first, _ = commands_of(suite, tmp_path / "out")
    assert list(first) == ["points_1", "discs_1", "all_pixels_1", "cam_1", "both_1"]
    train, score = first["points_1"]
    folder = str(tmp_path / "out/points_1")
    assert train[:2] == ["-m", "baselines.points"] and value(train, "--run-dir") == folder
    assert train[-2:] == ["--without", "masks"] and {"lr=0.02", "seed=1"} <= set(train)
    assert score[:3] == ["eval.py", "--ckpt", f"{folder}/last.pt"]
    assert first["discs_1"][0][-2:] == ["--discs", "8"]
    assert first["all_pixels_1"][0][:2] == ["-m", "baselines.supervised"]

    (cam,) = first["cam_1"]
    folder = tmp_path / "out/cam_1"
    assert cam[:2] == ["-m", "baselines.support_net"] and "--score" in cam
    assert cam[cam.index("--without") :][1:3] == ["rcm", "mam"]
    assert value(cam, "--split") == "val" and value(cam, "--out") == str(folder / "masks_val")


def test_second_stage_learns_from_the_masks_of_train(tmp_path: Path) -> None:
    suite = read_suite(write_suite(tmp_path), [])
    out = tmp_path / "out"
    first, later = commands_of(suite, out)
    assert suite.rows["+ both, second"].learns_from == "+ both"
    make, masks_of_val = first["both_1"]
    train, score = later["both_second_1"]
    assert value(masks_of_val, "--split") == "val" and "--score" in masks_of_val
    assert value(make, "--out") == str(out / "both_1/masks_train") and "--score" not in make
    assert value(make, "--run-dir") == value(masks_of_val, "--run-dir")
    assert train[0] == "train_warmup.py" and value(train, "--run-dir") == str(out / "both_second_1")
    masks = json.dumps(str(out / "both_1/masks_train"))
    expected = {f"pseudo_masks={masks}", 'views="base"', "carb=false"}
    assert expected <= set(train)
    assert value(score, "--ckpt") == str(out / "both_second_1/last.pt")


OF_MAPS = {
    "CAM": {"method": "cam", "options": ["--save-cams"]},
    "PSA": {"method": "psa", "cams": "CAM"},
    "PSA, Base": {"method": "psa", "cams": "CAM", "second_stage": True},
    "PSA, CARB": {"method": "psa", "cams": "CAM", "second_stage": "carb"},
    "SEC": {"method": "sec", "cams": "CAM"},
}


def test_methods_read_the_maps_of_a_row_and_carb_learns_from_their_masks(tmp_path: Path) -> None:
    suite = read_suite(write_suite(tmp_path, rows=OF_MAPS, contrasts={}), [])
    out = tmp_path / "out"
    rounds = ablation.plan(suite, [suite.rows["PSA, CARB"], suite.rows["SEC"]], [1], out)
    names = [[job.name for job in jobs] for jobs in rounds]
    assert names == [[], ["cam_1"], ["psa_1", "sec_1"], ["psa_base_1"], ["psa_carb_1"]]
    _, (cam,), (psa, sec), (base,), (carb,) = rounds
    maps = {split: str(out / f"cam_1/masks_{split}") for split in ("train", "val")}
    of_train, of_val = cam.commands
    assert [value(one, "--out") for one in cam.commands] == [*maps.values()]
    assert "--save-cams" in of_train and "--save-cams" in of_val
    of_train, of_val = psa.commands
    at = of_val.index("--cams")
    assert (
        of_val[at + 1 : at + 3] == [*maps.values()] and value(of_train, "--cams") == maps["train"]
    )
    assert maps["val"] not in of_train
    train, score = sec.commands
    assert value(train, "--cams") == maps["train"] and "--out" not in train
    assert score[0] == "eval.py"
    masks = f"pseudo_masks={json.dumps(str(out / 'psa_1/masks_train'))}"
    for job, script in ((base, "train_warmup.py"), (carb, "train_carb.py")):
        assert job.commands[0][0] == script
        assert {masks, 'views="base"'} <= set(job.commands[0])
    assert value(carb.commands[0], "--init") == str(out / "psa_base_1/warmup.pt")
    assert record_of(suite, suite.rows["PSA"], 1)["cams"] == "CAM"


def test_carbs_keys_of_a_second_stage_are_those_of_its_training(tmp_path: Path) -> None:
    balanced = OF_MAPS["PSA, CARB"] | {"region_balance": "class_agreement"}
    rows = OF_MAPS | {"PSA, balanced": balanced}
    suite = read_suite(write_suite(tmp_path, rows=rows, contrasts={}), [])
    chosen = [suite.rows[name] for name in ("PSA, CARB", "PSA, balanced")]
    rounds = ablation.plan(suite, chosen, [1], tmp_path / "out")
    names = [[job.name for job in jobs] for jobs in rounds]
    assert names == [[], ["cam_1"], ["psa_1"], ["psa_base_1"], ["psa_carb_1", "psa_balanced_1"]]
    plain, other = (job.commands[0] for job in rounds[-1])
    assert set(other) - set(plain) == {
        'region_balance="class_agreement"',
        str(tmp_path / "out/psa_balanced_1"),
    }
    assert not any("region_balance" in one for job in rounds[2] for one in job.commands[0])


def test_the_command_for_missing_maps_names_the_maps_that_the_method_reads(tmp_path: Path) -> None:
    rows = {name: OF_MAPS[name] for name in ("CAM", "PSA")}
    rows |= {"AMN": {"method": "amn", "cams": "CAM"}}
    out = scored_suite(tmp_path, rows, 1)
    (found,) = read_inputs([str(out)])[1]
    commands = {row.name: row.command for row in read_masks(found)}
    train, val = f"{out}/cam_1/masks_train", f"{out}/cam_1/masks_val"
    assert commands["PSA"].endswith(f"--cams {train} {val} --save-cams")
    assert commands["AMN"].endswith(f"--cams {train} --save-cams")
    assert "--cams" not in commands["CAM"]


def test_what_has_no_training_is_run_once_and_keeps_no_checkpoints(tmp_path: Path) -> None:
    rows = {"CLIP-ES": {"method": "clip_es"}, "Base": {"method": "clip_es", "second_stage": True}}
    suite = read_suite(write_suite(tmp_path, rows=rows, contrasts={}), [])
    out = tmp_path / "out"
    _, masks, networks = ablation.plan(suite, [*suite.rows.values()], [0, 3], out, keep=True)
    assert [job.name for job in masks] == ["clip_es_0"]
    assert [job.name for job in networks] == ["base_0", "base_3"]
    assert all("seed=0" in c and "--keep-checkpoints" not in c for c in masks[0].commands)
    folder = f"pseudo_masks={json.dumps(str(out / 'clip_es_0/masks_train'))}"
    for job in networks:
        assert {folder, "--keep-checkpoints"} <= set(job.commands[0])


def plant(suite: Suite, out: Path, name: str, seed: int, scores: dict) -> Path:
    """The folder of a scored run."""
    row = suite.rows[name]
    folder = out / row.folder(seed)
    metrics = folder / ("masks_val/score.json" if row.is_masks else "eval_val/metrics.json")
    metrics.parent.mkdir(parents=True)
    config = suite.config_of(row, seed)
    save_config(config, folder / "config.yaml")
    (folder / "metrics.jsonl").touch()
    if record := record_of(suite, row, seed):
        (folder / "row.json").write_text(json.dumps(record))
    usual = {"split": "val", "num_images": 2, "classes": {}}
    usual |= {} if row.is_masks else {"step": config.steps}
    metrics.write_text(json.dumps(usual | scores))
    return folder


def scored_suite(folder: Path, rows: dict, seed: int) -> Path:
    """OUT of a suite whose rows all have the same score with one seed."""
    path, out = write_suite(folder, rows=rows, contrasts={}), folder / "out"
    suite = read_suite(path, [])
    for name in rows:
        plant(suite, out, name, seed, {"miou": 0.3})
    ablation.main([path, "--out", str(out), "--table-only"])
    return out


CURVE = [{"threshold": t, "miou": m} for t, m in ((0.1, 0.2), (0.2, 0.5), (0.3, 0.5), (0.4, None))]


def test_scores_of_a_methods_masks() -> None:
    score = {"miou": 0.4, "mean_precision": 0.6, "mean_accuracy": 0.3, "thresholds": CURVE}
    found = scores_of_method(score)
    assert found == pytest.approx(
        {"mIoU": 40, "small": None, "large": None, "precision": 60, "recall": 30}
        | {"best mIoU": 50, "at threshold": 0.2}
    )
    assert scores_of_method(score | {"labelled_pixels": 0.7})["labelled"] == pytest.approx(70)
    assert list(scores_of_method({"miou": 0.4})) == ["mIoU", "small", "large"]


def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, out = write_suite(tmp_path), tmp_path / "out"
    suite = read_suite(path, [])
    for seed, (cam, both) in enumerate(((0.3, 0.4), (0.32, 0.36))):
        score = {"mean_precision": 0.5, "mean_accuracy": 0.6, "thresholds": CURVE}
        plant(suite, out, "CAM", seed, score | {"miou": cam})
        plant(suite, out, "+ both", seed, score | {"miou": both, "mean_precision": 0.7})
        plant(suite, out, "Points", seed, {"miou": 0.25})
    plant(suite, out, "+ both, second", 0, {"miou": 0.45})
    ablation.main([path, "--out", str(out), "--table-only"])
    lines = capsys.readouterr().out.splitlines()
    extra = "precision | recall | best mIoU | at threshold"
    assert f"| row | seeds | mIoU | small | large | {extra} | seed 0 | seed 1 |" in lines
    assert "| Points | 2 | 25.0 ± 0.0 | - | - |  |  |  |  | 25.0 | 25.0 |" in lines
    assert (
        "| CAM | 2 | 31.0 ± 1.4 | - | - | 50.0 ± 0.0 | 60.0 ± 0.0 | 50.0 ± 0.0 | 0.20 ± 0.00 "
        "| 30.0 | 32.0 |"
    ) in lines
    assert "| + both, second | 1 | 45.0 | - | - |  |  |  |  | 45.0 | - |" in lines
    assert "| Discs | 0 | not run |" in lines
    assert f"| difference | seeds | mIoU | small | large | {extra.rpartition(' |')[0]} | " in (
        "\n".join(lines)
    )
    assert any(line.startswith("| + both − CAM | 2 | +7.0 ± 4.2 | - | - | +20.0") for line in lines)
    text = (out / "ablation.md").read_text(encoding="utf-8")
    assert "chosen on the scored images themselves" in text.splitlines()[0]

    # what was run is not run again, the rest is
    first, later = (
        {job.name for job in jobs}
        for jobs in ablation.plan(suite, [*suite.rows.values()], [0, 1], out)[1:]
    )
    # both_1: its masks of train, which the second stage learns from
    assert first == {"discs_0", "discs_1", "all_pixels_0", "all_pixels_1", "both_1"}
    assert later == {"both_second_1"}


def test_a_method_may_see_images_at_a_size_of_its_own(tmp_path: Path) -> None:
    rows = {"All pixels": ROWS["All pixels"], "SEC": {"method": "sec", "cams": "CAM"}}
    rows |= {"CAM": OF_MAPS["CAM"]}
    suite, out = read_suite(write_suite(tmp_path, rows=rows, contrasts={}), []), tmp_path / "out"
    plant(suite, out, "All pixels", 0, {"miou": 0.5, "resize_to": [64, 96]})
    plant(suite, out, "SEC", 0, {"miou": 0.2, "resize_to": [48, 64]})
    assert [len(cells) for cells in collect(suite, out).values()] == [1, 1, 0]
    plant(suite, out, "SEC", 1, {"miou": 0.2, "inference": {"flip": True}})
    with pytest.raises(InputError, match="were scored in different ways .inference"):
        collect(suite, out)


def test_what_has_no_seed_stands_beside_each_seed(tmp_path: Path) -> None:
    rows = {"CAM": {"method": "cam"}, "Prior": {"method": "prior"}}
    path = write_suite(tmp_path, rows=rows, contrasts={"Floor": [["CAM", "Prior"]]})
    suite, out = read_suite(path, []), tmp_path / "out"
    plant(suite, out, "Prior", 0, {"miou": 0.1})
    for seed, miou in ((1, 0.3), (2, 0.4)):
        plant(suite, out, "CAM", seed, {"miou": miou})
    ablation.main([path, "--out", str(out), "--table-only"])
    content = json.loads((out / "ablation.json").read_text(encoding="utf-8"))
    found = content["contrasts"]["Floor"]["CAM − Prior"]["seeds"]
    assert [round(one["mIoU"]) for one in found.values()] == [20, 30] and [*found] == ["1", "2"]


def test_fig_7_has_a_column_of_the_network_of_clip_es(tmp_path: Path) -> None:
    rows = {
        "CLIP-ES, masks": {"method": "clip_es"},
        "CLIP-ES + CARB": {"method": "clip_es", "second_stage": "carb"},
        "CLIP-ES": {"method": "clip_es", "second_stage": True},
        "Dual + CARB": {"stage": "carb"},
    }
    out = scored_suite(tmp_path, rows, 0)
    shown = shown_runs([str(out)], *read_inputs([str(out)]))
    assert [run.label for run in shown] == ["Dual + CARB, seed 0", "CLIP-ES, seed 0"]
    assert [run.last.folder.name for run in shown] == ["dual_carb_0", "clip_es_0"]


def test_the_warm_up_shown_beside_carb_learned_from_the_same_masks(tmp_path: Path) -> None:
    rows = OF_MAPS | {"CLIP-ES": {"method": "clip_es"}}
    rows |= {"On CLIP-ES": {"method": "clip_es", "second_stage": True}}
    rows |= {"On CLIP-ES, CARB": {"method": "clip_es", "second_stage": "carb"}}
    out = scored_suite(tmp_path, rows, 0)
    (found,) = read_inputs([str(out)])[1]
    for name, plain in (("PSA, CARB", "psa_base_0"), ("On CLIP-ES, CARB", "on_clip_es_0")):
        assert run_of_row(found, name, "0").stages["warmup"].folder.name == plain


def test_rows_are_compared_by_class(tmp_path: Path) -> None:
    rows = {"A": {"stage": "supervised"}, "B": {"method": "points"}}
    path = write_suite(tmp_path, rows=rows, contrasts={}, by_class=[["A", "B"]])
    suite, out = read_suite(path, []), tmp_path / "out"
    for name, values in {"A": (0.5, 0.2, None), "B": (0.3, 0.25, 0.1)}.items():
        ious = zip(("road", "car", "train"), values, strict=True)
        plant(suite, out, name, 0, {"miou": 0.3, "classes": {n: {"iou": v} for n, v in ious}})
    ablation.main([path, "--out", str(out), "--table-only"])
    text = (out / "ablation.md").read_text(encoding="utf-8")
    assert "**A and B by class**: A is better in 1 of 2 classes" in text
    assert "| road | 50.0 | 30.0 | +20.0 |\n| car | 20.0 | 25.0 | -5.0 |" in text
    assert "| train" not in text
    bad = write_suite(tmp_path, rows=rows, contrasts={}, by_class=[["A", "C"]])
    with pytest.raises(InputError, match="'by_class': no row 'C'; expected A, B"):
        read_suite(bad, [])


def test_runs_with_other_options_or_settings_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    suite = read_suite(write_suite(tmp_path), [])
    folder = plant(suite, out, "Points", 0, {"miou": 0.25})
    other = ROWS | {"Points": ROWS["Points"] | {"options": ["--without", "distance"]}}
    with pytest.raises(InputError, match="points_0 holds .*options: .*masks.* -> .*distance"):
        collect(read_suite(write_suite(tmp_path, rows=other), []), out)
    other = ROWS | {"Points": ROWS["Points"] | {"lr": 0.5}}
    with pytest.raises(InputError, match=r"points_0 holds .*\(lr: 0.02 -> 0.5\)"):
        collect(read_suite(write_suite(tmp_path, rows=other), []), out)
    suite = read_suite(write_suite(tmp_path), [])
    second = plant(suite, out, "+ both, second", 0, {"miou": 0.25}) / "row.json"
    changes = {"options": ["--without", "mam"]}  # of the masks that it learned from
    other = ROWS | {name: ROWS[name] | changes for name in ("+ both", "+ both, second")}
    with pytest.raises(InputError, match="both_second_0 holds .*needs: .*mam"):
        collect(read_suite(write_suite(tmp_path, rows=other), []), out)
    record = json.loads(second.read_text())
    second.write_text(json.dumps({key: record[key] for key in record if key != "needs"}))
    collect(read_suite(write_suite(tmp_path, rows=other), []), out)  # of an earlier version
    suite = read_suite(write_suite(tmp_path), [])
    assert list(collect(suite, out)["Points"]) == [0]
    (folder / "row.json").unlink()  # not known how it was made: it is run, and thereby checked
    assert not collect(suite, out)["Points"]


def test_the_report_takes_them_for_what_they_are(tmp_path: Path) -> None:
    path, out = write_suite(tmp_path), tmp_path / "out"
    suite = read_suite(path, [])
    plant(suite, out, "CAM", 0, {"miou": 0.3})
    ablation.main([path, "--out", str(out), "--table-only"])
    _, (read,) = read_inputs([str(out)])
    assert run_of(read) is None  # masks only
    assert not read_scored_runs([], [read])
    for name in ("Points", "Discs", "+ both, second"):
        plant(suite, out, name, 0, {"miou": 0.3})
    ablation.main([path, "--out", str(out), "--table-only"])
    _, (read,) = read_inputs([str(out)])
    assert run_of(read).label == "Points, seed 0"
    found = {run.folder.name: run for run in read_scored_runs([], [read])}
    assert [run.row for run in found.values()] == ["points", "points", "Base"]
    assert len(by_settings(found.values())) == 3  # other options are no other seed
    assert "another method" in exclusion_reason(found["points_0"])
    assert "masks not known to be CLIP's" in exclusion_reason(found["both_second_0"])
    figure = suite_table(read, tmp_path / "figures")
    assert "Points" in figure.tables[0] and figure.missing


def test_missing_data_are_made_with_the_command_of_the_suite(tmp_path: Path) -> None:
    labels = str(tmp_path / "no labels.json")
    prepare = {"image_labels": "python -m demo.make_scenes --root {data_root} # {image_labels}"}
    path = write_suite(tmp_path, prepare=prepare)
    suite = read_suite(path, [f"image_labels={labels}", "data_root=there"])
    with pytest.raises(InputError) as found:
        suite.check_prepared(suite.rows.values())
    command = f"python -m demo.make_scenes --root there # {labels}"
    assert str(found.value) == f"image_labels: no {labels}; make it: {command}"
    (tmp_path / "no labels.json").touch()
    suite.check_prepared(suite.rows.values())
    first, row = list(suite.rows.values())[:2]
    row = replace(row, settings=row.settings | {"image_labels": str(tmp_path / "its own.json")})
    with pytest.raises(
        InputError,
        match=f"own.json; the commands at the top of {path} make",
    ):
        suite.check_prepared([first, row])


SUITES = [*Path("demo/suites").glob("*.yaml"), *Path("experiments/suites").glob("*.yaml")]


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_commands_that_make_the_data_stand_at_the_top_of_the_suite(path: Path) -> None:
    suite, text = read_suite(str(path), []), path.read_text(encoding="utf-8")
    methods = {row.stage for row in suite.rows.values()} & METHODS.keys()
    assert suite.prepare or not methods
    for command in suite.prepare.values():
        filled = command.format_map(suite.config_of(next(iter(suite.rows.values())), 0).to_dict())
        assert f"#   {filled}\n" in text


BAD = {
    "row 'A': no method point; known: points, .*supervised": {"method": "point"},
    "row 'A' has 'stage' and 'method'": {"stage": "warmup", "method": "points"},
    "row 'A': 'options', .* need a 'method'": {"stage": "carb", "options": ["-x"]},
    "row 'A': 'options', 'second_stage' and 'cams' need": {"stage": "carb", "cams": "CAM"},
    "row 'A': amn needs 'cams', a row that has --save-cams": {"method": "amn"},
    "row 'A': 'cams' is for psa, amn, sec, clustering, found seam": {"method": "seam", "cams": "A"},
    "row 'A': 'cams' must name a row of a method with the option": {"method": "psa", "cams": "B"},
    "row 'A': 'second_stage' must be true, false or carb, found 2": {
        "method": "psa",
        "second_stage": 2,
    },
    "row 'A': supervised takes no 'options'": {"method": "supervised", "options": ["--x"]},
    "row 'A': 'options' must be a list of words": {"method": "points", "options": "--discs 8"},
    "row 'A': 'second_stage' needs a method that": {"method": "points", "second_stage": True},
    "row 'A' needs a row with the same method, options and keys": {
        "method": "support_net",
        "second_stage": True,
    },
    "row 'A' can't decide seed": {"method": "points", "seed": 3},
    "row 'A': unknown key 'optoins'": {"method": "points", "optoins": []},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_rows_get_a_message(tmp_path: Path, message: str) -> None:
    path = write_suite(tmp_path, rows={"A": BAD[message]}, contrasts={})
    with pytest.raises(InputError, match=message):
        read_suite(path, [])


@pytest.mark.parametrize(
    ("message", "prepare"),
    [
        ("'prepare', steps: expected a key of the config with a path", {"steps": "x"}),
        ("'prepare', point: expected a key of the config", {"point": "x"}),
        ("'prepare', data_root: expected a command, found 3", {"data_root": 3}),
        ("braces hold keys of the config, found root", {"data_root": "x {root}"}),
        ("braces hold keys of the config, found x {", {"data_root": "x {"}),
        ("'prepare' must be 'name: value' lines", {"prepare": ["x"]}["prepare"]),
    ],
)
def test_bad_preparation_gets_a_message(tmp_path: Path, message: str, prepare: object) -> None:
    with pytest.raises(InputError, match=message):
        read_suite(write_suite(tmp_path, prepare=prepare), [])


def test_equal_rows_are_refused(tmp_path: Path) -> None:
    rows = {"A": {"method": "support_net"}, "B": {"method": "support_net", "options": []}}
    with pytest.raises(InputError, match="'A' and 'B' would be the same run"):
        read_suite(write_suite(tmp_path, rows=rows, contrasts={}), [])
