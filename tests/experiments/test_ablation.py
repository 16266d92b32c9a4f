"""experiments/ablation.py: what is run, what is not run again, and what the tables say."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import program
import pytest
import tiny
import torch
import yaml

import gen_clip_masks
import prepare_data
from experiments import ablation
from experiments.jobs import environment
from experiments.suite_file import Row, Suite, read_suite
from experiments.table import collect
from utils.config import REGION_BALANCES, load_config, save_config
from utils.safe.errors import InputError

ROWS = {
    "Base": {"stage": "warmup", "views": "base"},
    "Base + CARB": {"stage": "carb", "views": "base"},
}
CONTRASTS = {"CARB": [["Base + CARB", "Base"]]}


def write_suite(folder: Path, path: Path, **changes: object) -> Path:
    """A suite on the config at `path`: Base and Base + CARB, two seeds."""
    values = {
        "config": str(path),
        "split": "val",
        "seeds": [0, 1],
        "make_masks": True,
        "rows": ROWS,
        "contrasts": CONTRASTS,
    }
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(values | changes, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated data set with image-level labels; four steps, CARB from the second on."""
    folder = tmp_path_factory.mktemp("ablation")
    tiny.make_cityscapes(folder / "data", num_train=4, num_val=2)
    tiny.make_clip(folder / "clip.pt")
    tiny.make_config(folder, steps=4, warmup_steps=2)
    root, labels = str(folder / "data"), str(folder / "image_labels.json")
    prepare_data.main(["cityscapes", "--root", root, "--out", labels, "--splits", "train", "val"])
    return folder


@pytest.fixture
def one_thread(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.slow
def test_a_suite_runs_whole_and_only_once(prepared, tmp_path, capsys, one_thread) -> None:
    suite = write_suite(tmp_path, prepared / "config.yaml")
    out = tmp_path / "out"
    command = [str(suite), "--out", str(out), "--jobs", "2"]
    ablation.main([*command, "--keep-checkpoints"])
    shown = capsys.readouterr().out
    assert "4 runs, in 2 rounds" in shown
    content = json.loads((out / "ablation.json").read_text())
    for name, slug in (("Base", "base"), ("Base + CARB", "base_carb")):
        for seed in ("0", "1"):
            metrics = json.loads((out / f"{slug}_{seed}/eval_val/metrics.json").read_text())
            assert content["rows"][name]["metrics"][seed] == metrics
            assert metrics["step"] == 4 and len(metrics["classes"]) == tiny.CLASSES
            config = load_config(out / f"{slug}_{seed}/config.yaml")
            assert (config.seed, config.carb, config.views) == (int(seed), slug != "base", "base")
    # CARB's runs went on from the plain run of their own seed
    lines = tiny.read_metrics(out / "base_carb_1")
    assert [line["step"] for line in lines] == [3, 4] and "w" in lines[0]
    log = (out / "base_carb_1/job.log").read_text()
    assert "--init" in log and str(out / "base_1/warmup.pt") in log
    masks = json.loads((out / "pseudo_masks_val/score.json").read_text())
    assert content["pseudo_masks"] == masks
    text = (out / "ablation.md").read_text()
    assert text in shown
    assert f"| CLIP's pseudo-masks | - | {100 * masks['miou']:.1f} |" in text
    assert f"{prepared / 'config.yaml'}; split val (2 images); 4 steps for every row; " in text
    assert "seeds 0, 1. " in text
    for row, steps in (("base_0", [1, 2, 3, 4]), ("base_carb_0", [3, 4])):
        every = load_config(out / row / "config.yaml").checkpoint_every
        kept = [int(path.stem[5:]) for path in sorted((out / row).glob("step_*.pt"))]
        assert kept == [step for step in steps if step % every == 0 or step in (2, 4)]

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")}
    logs = {path: path.read_text() for path in out.rglob("job.log")}
    ablation.main(command)
    shown = capsys.readouterr().out
    assert "0 runs, in 0 rounds" in shown
    assert "0 of them new" in (out / "pseudo_masks_val.log").read_text()
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")} == times
    assert {path: path.read_text() for path in out.rglob("job.log")} == logs
    assert (out / "ablation.md").read_text() == text

    # a new checkpoint is scored again, without training
    os.utime(out / "base_carb_0/last.pt")
    ablation.main(command)
    shown = capsys.readouterr().out
    assert "started base_carb_0" in shown and "started base_0" not in shown
    assert "is finished" in (out / "base_carb_0/job.log").read_text()

    with pytest.raises(InputError, match=r"other settings \(lr: 0.01 -> 0.02\)"):
        ablation.main([*command, "--set", "lr=0.02"])


def test_a_stopped_suite_has_the_tables_of_what_is_finished(
    prepared, tmp_path, monkeypatch
) -> None:
    path, out = write_suite(tmp_path, prepared / "config.yaml"), tmp_path / "out"

    def stop(jobs: list, parallel: int) -> list:
        if any(job.name == "base_0" for job in jobs):
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(ablation, "run_jobs", stop)
    with pytest.raises(KeyboardInterrupt):
        ablation.main([str(path), "--out", str(out)])
    assert "not run" in (out / "ablation.md").read_text() and (out / "ablation.json").is_file()


def test_masks_first_and_then_a_runner_for_each_seed(prepared, tmp_path, monkeypatch) -> None:
    rows, started = ROWS | {"Value": {"stage": "masks", "teacher": "maskclip_plain"}}, []
    path = write_suite(tmp_path, prepared / "config.yaml", rows=rows)
    monkeypatch.setattr(ablation, "run_jobs", lambda jobs, _: started.append(jobs) or [])
    command = [str(path), "--out", str(tmp_path / "out")]
    ablation.main([*command, "--masks", "only"])
    assert [[job.name for job in jobs] for jobs in started] == [
        ["pseudo_masks", "pseudo_masks_val"],
        ["value-masks"],  # which the runners of all seeds would make at once
    ]
    made = [command for job in started[0] for command in job.commands]
    started.clear()
    ablation.main([*command, "--masks", "ready", "--seeds", "1"])
    assert [job.name for jobs in started[1:] for job in jobs] == [
        "base_1",
        "value-masks",
        "base_carb_1",
    ]
    checked = [command for job in started[0] for command in job.commands]
    assert checked == [[*command, "--share", "1/1"] for command in made]


@pytest.mark.slow
def test_a_failure_is_shown_and_the_others_go_on(prepared, tmp_path, capsys, one_thread) -> None:
    rows = {
        "Broken": {"stage": "warmup", "views": "dual", "clip_model": str(tmp_path / "none.pt")},
        "Broken + CARB": {"stage": "carb"} | {"clip_model": str(tmp_path / "none.pt")},
        "Supervised": {"stage": "supervised"},
    }
    gen_clip_masks.main(["--config", str(prepared / "config.yaml")])  # the text embeddings
    config = prepared / "config.yaml"
    suite = write_suite(
        tmp_path, config, rows=rows, make_masks=False, contrasts={"CARB": [["Broken + CARB"] * 2]}
    )
    out = tmp_path / "out"
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        ablation.main([str(suite), "--out", str(out), "--seeds", "3"])
    assert "2 runs failed (broken_3, broken_carb_3)" in stopped.value.code  # status 1
    shown = capsys.readouterr()
    assert "FAILED broken_3" in shown.out and "none.pt" in shown.out
    assert "no checkpoint at" in shown.out.partition("FAILED broken_carb_3")[2]
    assert "finished supervised_3" in shown.out
    text = (out / "ablation.md").read_text()
    assert "| Broken | 0 | not run |" in text


def planned(*arguments, **more) -> list[list]:
    """The rounds of `ablation.plan`, with empty ones up to three."""
    rounds = ablation.plan(*arguments, **more)
    return rounds + [[]] * (3 - len(rounds))


def rows_of(suite: Suite) -> list[Row]:
    return list(suite.rows.values())


def plant(suite: Path, out: Path, cells: dict[tuple[str, int], dict[str, float]]) -> None:
    """Run folders with numbers but without checkpoints, as brought from another machine."""
    read = read_suite(str(suite), [])
    for (name, seed), values in cells.items():
        row = read.rows[name]
        folder = out / f"{row.slug}_{seed}"
        (folder / "eval_val").mkdir(parents=True)
        config = read.config_of(row, seed)
        save_config(config, folder / "config.yaml")
        metrics = {"step": config.steps, "num_images": 2, "classes": {}} | values
        (folder / "eval_val/metrics.json").write_text(json.dumps(metrics))


def test_tables_of_planted_numbers(prepared, tmp_path, capsys) -> None:
    rows = ROWS | {"Dual": {"stage": "warmup", "views": "dual"}}
    contrasts = CONTRASTS | {"Dual": [["Dual", "Base"]]}
    suite = write_suite(tmp_path, prepared / "config.yaml", rows=rows, contrasts=contrasts)
    out = tmp_path / "out"
    base, carb = [0.30, 0.34, 0.32], [0.35, 0.33, 0.38]
    cells = {("Base", s): {"miou": v, "miou_small": 0.1} for s, v in enumerate(base)}
    cells |= {("Base + CARB", s): {"miou": v, "miou_small": 0.3} for s, v in enumerate(carb)}
    plant(suite, out, cells)  # seed 2 is not of the suite, but was run
    ablation.main([str(suite), "--out", str(out), "--table-only"])
    assert "split val (2 images); 4 steps for every row; seeds 0, 1, 2. " in (
        out / "ablation.md"
    ).read_text(encoding="utf-8")
    gains = [5.0, -1.0, 6.0]
    spread = f"{statistics.mean(gains):+.1f} ± {statistics.stdev(gains):.1f}"
    lines = capsys.readouterr().out.splitlines()
    assert "| row | seeds | mIoU | small | large | seed 0 | seed 1 | seed 2 |" in lines
    assert "| Base | 3 | 32.0 ± 2.0 | 10.0 ± 0.0 | - | 30.0 | 34.0 | 32.0 |" in lines
    assert (
        f"| Base + CARB − Base | 3 | {spread} | +20.0 ± 0.0 | - | +5.0 | -1.0 | +6.0 |"
    ) in lines
    assert "| Dual − Base | 0 | not run |" in lines
    content = json.loads((out / "ablation.json").read_text())
    line = content["contrasts"]["CARB"]["Base + CARB − Base"]
    assert [line["seeds"][seed]["mIoU"] for seed in "012"] == pytest.approx(gains)
    assert line["std"]["mIoU"] == pytest.approx(statistics.stdev(gains))
    assert content["contrasts"]["Dual"]["Dual − Base"]["mean"]["mIoU"] is None


def test_runs_scored_in_another_way_or_at_another_step_do_not_mix(prepared, tmp_path) -> None:
    suite = write_suite(tmp_path, prepared / "config.yaml")
    out = tmp_path / "out"
    early = {"miou": 0.2, "step": 2}
    plant(suite, out, {("Base", 0): {"miou": 0.3}, ("Base", 1): early})
    command = [str(suite), "--out", str(out), "--table-only"]
    ablation.main(command)
    assert list(json.loads((out / "ablation.json").read_text())["rows"]["Base"]["seeds"]) == ["0"]
    plant(suite, out, {("Base + CARB", 0): {"miou": 0.3, "inference": {"flip": True}}})
    with pytest.raises(InputError, match="were scored in different ways .inference"):
        ablation.main(command)


def test_shared_warm_ups(prepared, tmp_path) -> None:
    rows = {
        "Dual, w = 0.5": {"stage": "carb", "region_weight": 0.5},
        "Dual": {"stage": "warmup"},
        "Dual + CARB": {"stage": "carb"},
        "Slow + CARB": {"stage": "carb", "lr": 0.001},
        "Slow": {"stage": "warmup", "lr": 0.001},
        "Slow, w = 1": {"stage": "carb", "lr": 0.001, "region_weight": 1},
    }
    path = write_suite(tmp_path, prepared / "config.yaml", rows=rows, contrasts={}, seeds=[5])
    suite = read_suite(str(path), ["batch_size=2"])
    out = tmp_path / "out"
    masks, plain, carb = planned(suite, rows_of(suite), [5], out)
    assert [job.name for job in masks] == ["pseudo_masks_val"]  # Dual makes its own
    assert [job.name for job in plain] == ["dual_5", "slow_5"]
    inits = {job.name: job.commands[0][job.commands[0].index("--init") + 1] for job in carb}
    assert inits == {
        "dual_w_0.5_5": str(out / "dual_5/warmup.pt"),
        "dual_carb_5": str(out / "dual_5/warmup.pt"),
        "slow_carb_5": str(out / "slow_5/warmup.pt"),
        "slow_w_1_5": str(out / "slow_5/warmup.pt"),
    }
    train = carb[0].commands[0]
    assert train[0] == "train_carb.py" and "region_weight=0.5" in train
    assert "batch_size=2" in train and "seed=5" in train and "--keep-checkpoints" not in train
    for jobs in planned(suite, rows_of(suite), [5], out, keep=True)[1:]:
        assert all("--keep-checkpoints" in job.commands[0] for job in jobs)


def test_rows_without_a_plain_row_have_a_warm_up_of_their_own(prepared, tmp_path) -> None:
    """One for all that differ in CARB's keys; it stops where CARB starts and is no line."""
    rows = {
        "w = 0": {"stage": "carb", "region_weight": 0},
        "w = 1": {"stage": "carb", "region_weight": 1},
        "Slow": {"stage": "carb", "lr": 0.003},
    }
    path = write_suite(tmp_path, prepared / "config.yaml", rows=rows, contrasts={})
    suite, out = read_suite(str(path), []), tmp_path / "out"
    _, starts, carb = planned(suite, rows_of(suite), [4], out)
    assert [job.name for job in starts] == ["w_0-start_4", "slow-start_4"]
    for job in starts:
        assert len(job.commands) == 1 and job.commands[0][0] == "train_warmup.py"
        assert {"carb=true", "seed=4"} <= set(job.commands[0])
    inits = [job.commands[0][job.commands[0].index("--init") + 1] for job in carb]
    one, other = (str(out / f"{row}-start_4/warmup.pt") for row in ("w_0", "slow"))
    assert inits == [one, one, other]
    # a finished one is not trained again, and one of other settings is refused
    start = suite.start_row(suite.rows["Slow"])
    (out / start.folder(4)).mkdir(parents=True)
    (out / start.folder(4) / "warmup.pt").touch()
    save_config(suite.config_of(start, 4), out / start.folder(4) / "config.yaml")
    _, starts, carb = planned(suite, rows_of(suite), [4], out)
    assert [job.name for job in starts] == ["w_0-start_4", "slow_4"] and len(carb) == 2
    assert list(collect(suite, out)) == list(rows)
    other_suite = read_suite(str(path), ["batch_size=3"])
    with pytest.raises(InputError, match=r"slow-start_4 holds .*other settings \(batch_size"):
        planned(other_suite, rows_of(other_suite), [4], out)


@pytest.mark.slow
def test_a_warm_up_of_its_own_is_run_first(prepared, tmp_path, one_thread) -> None:
    rows = {"Dual + CARB": {"stage": "carb"}}
    suite = write_suite(
        tmp_path, prepared / "config.yaml", rows=rows, contrasts={}, seeds=[0], make_masks=False
    )
    out = tmp_path / "out"
    ablation.main([str(suite), "--out", str(out)])
    steps = [line["step"] for line in tiny.read_metrics(out / "dual_carb-start_0")]
    assert steps == [1, 2] and not (out / "dual_carb-start_0/eval_val").exists()
    assert [line["step"] for line in tiny.read_metrics(out / "dual_carb_0")] == [3, 4]
    content = json.loads((out / "ablation.json").read_text())
    assert list(content["rows"]) == ["Dual + CARB"] and content["rows"]["Dual + CARB"]["seeds"]


def test_masks_are_always_looked_at_and_made_where_something_trains_on_them(
    prepared, tmp_path
) -> None:
    """Whatever made a score.json that lies there: gen_clip_masks.py knows, this program doesn't."""
    rows = ROWS | {"Local": {"stage": "warmup", "views": "local"}}
    path = write_suite(tmp_path, prepared / "config.yaml", rows=rows)
    suite, out = read_suite(str(path), []), tmp_path / "out"
    (out / "pseudo_masks_val").mkdir(parents=True)
    (out / "pseudo_masks_val/score.json").write_text('{"miou": 0.5}')
    train, score = planned(suite, rows_of(suite), [0, 1], out)[0]
    assert len(train.commands) == 1 and train.commands[0][0] == "gen_clip_masks.py"
    assert score.commands[0][-3:] == ["--out", str(out / "pseudo_masks_val"), "--score"]
    plant(path, out, {(name, seed): {"miou": 0.3} for name in rows for seed in (0, 1)})
    masks, plain, carb = planned(suite, rows_of(suite), [0, 1], out)
    assert [job.name for job in masks] == ["pseudo_masks_val"] and carb == []
    assert plain == []


CALIBRATED = {"preset": "maskclip_plain", "attention": "calibrated"}
MASKS = {
    "CARB's": {"stage": "masks", "teacher": "maskclip"},
    "Value": {"stage": "masks", "teacher": "maskclip_plain"},
    "Refused": {"stage": "masks", "teacher": CALIBRATED},  # the tower has three blocks
}


@pytest.mark.slow
def test_rows_of_masks_are_made_scored_and_kept(prepared, tmp_path, capsys, one_thread) -> None:
    """One folder for all seeds; the failure of one teacher stops no other."""
    contrasts = {"Residual": [["Value", "CARB's"]]}
    suite = write_suite(
        tmp_path, prepared / "config.yaml", rows=MASKS, contrasts=contrasts, make_masks=False
    )
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        ablation.main([str(suite), "--out", str(out)])
    assert "1 runs failed (refused-masks)" in stopped.value.code
    assert "calibrated_blocks" in capsys.readouterr().out.partition("FAILED refused-masks")[2]
    content = json.loads((out / "ablation.json").read_text())
    for name, slug in (("CARB's", "carb_s"), ("Value", "value")):
        folder = out / f"{slug}-masks"
        score, cost = (json.loads((folder / f"{f}.json").read_text()) for f in ("score", "cost"))
        assert content["rows"][name]["metrics"] == {"0": score | {"cost": cost}}
        assert cost["images"] == 1  # of two: the first is left out
        assert cost["seconds_per_image"] > 0 and cost["device"] == "cpu" and cost["threads"] == 1
    values = [content["rows"][row]["mean"]["mIoU"] for row in ("CARB's", "Value")]
    text = (out / "ablation.md").read_text(encoding="utf-8")
    assert "split val (2 images). mIoU in percent of masks made with each image's labels." in text
    assert f"| CARB's | - | {values[0]:.1f} | " in text and "| Refused | - | not run |" in text
    assert f"| Value − CARB's | 1 | {values[1] - values[0]:+.1f} | " in text
    assert "| row | seeds | mIoU | small | large |\n" in text

    read = read_suite(str(suite), [])
    _, left, _ = planned(read, rows_of(read), [0, 1], out)
    assert [job.name for job in left] == ["refused-masks"]
    # masks made again after they were scored
    os.utime(out / "value-masks/meta.json", (2e9, 2e9))
    _, left, _ = planned(read, rows_of(read), [0, 1], out)
    assert [job.name for job in left] == ["value-masks", "refused-masks"]
    # and those of another teacher
    rows = MASKS | {"Value": {"stage": "masks", "teacher": "fast"}}
    other = write_suite(tmp_path, prepared / "config.yaml", rows=rows, contrasts={})
    with pytest.raises(InputError, match=r"value-masks holds .*\(teacher.attention: value -> kk"):
        ablation.main([str(other), "--out", str(out), "--table-only"])


def test_masks_stand_beside_the_networks_that_learn_from_them(prepared, tmp_path) -> None:
    rows = {"A, masks": {"stage": "masks"}} | ROWS
    path = write_suite(tmp_path, prepared / "config.yaml", rows=rows)
    suite, out = read_suite(str(path), []), tmp_path / "out"
    masks, plain, _ = planned(suite, rows_of(suite), [3, 4], out)
    assert [len(job.commands) for job in masks] == [1, 1]  # to train on; of the split
    assert [job.name for job in plain] == ["a_masks-masks", "base_3", "base_4"]
    command = plain[0].commands[0]
    assert command[0] == "gen_clip_masks.py" and "--score" in command
    assert command[command.index("--out") + 1] == str(out / "a_masks-masks")
    plant(path, out, {("Base", seed): {"miou": 0.3, "inference": {}} for seed in (3, 4)})
    folder = out / "a_masks-masks"
    folder.mkdir()
    config = suite.config_of(suite.rows["A, masks"], 0).to_dict()
    (folder / "meta.json").write_text(json.dumps({"config": config, "made_from": {}}))
    (folder / "score.json").write_text(json.dumps({"miou": 0.25, "num_images": 2}))
    ablation.main([str(path), "--out", str(out), "--table-only"])
    lines = (out / "ablation.md").read_text(encoding="utf-8").splitlines()
    assert "| A, masks | - | 25.0 | - | - |  |  |" in lines
    assert "| Base | 2 | 30.0 ± 0.0 | - | - | 30.0 | 30.0 |" in lines
    assert "; 4 steps for every row; seeds 3, 4. " in lines[0]


def test_masks_are_the_same_whatever_is_trained_on_them(prepared, tmp_path) -> None:
    path = write_suite(
        tmp_path, prepared / "config.yaml", rows={"A": {"stage": "masks"}}, contrasts={}
    )
    suite, folder = read_suite(str(path), []), tmp_path / "a-masks"
    folder.mkdir()
    config = suite.config_of(suite.rows["A"], 0).to_dict()
    (folder / "meta.json").write_text(json.dumps({"config": config, "made_from": {}}))
    (folder / "score.json").write_text('{"miou": 0.25}')
    training = [
        "steps=9",
        "lr=0.1",
        "batch_size=1",
        "views=dual",
        "arithmetic.ignore_padding=false",
    ]
    stored = ["teacher=fast", "teacher.stored=maskclip"]
    for settings in (training, stored):
        assert collect(read_suite(str(path), settings), tmp_path)["A"][0]["miou"] == 0.25
    for setting in (
        "teacher.stored.pamr_steps=1",
        "image_size=[32, 32]",
        "clip_model=other.pt",
        "image_labels=other.json",
        "prompt_templates=clip85",
        "arithmetic.label_filter=multiply",
        "arithmetic.clip_padding=stretch",
    ):
        key = setting.partition("=")[0].replace(".stored", "")
        with pytest.raises(InputError, match=rf"a-masks holds .* settings \({key}: "):
            collect(read_suite(str(path), [setting]), tmp_path)


def test_refused_masks_stop_everything(prepared, tmp_path, monkeypatch) -> None:
    suite = write_suite(tmp_path, prepared / "config.yaml")
    started = []
    monkeypatch.setattr(ablation, "run_jobs", lambda jobs, _: started.append(jobs) or ["masks"])
    with pytest.raises(InputError, match="nothing was trained"):
        ablation.main([str(suite), "--out", str(tmp_path / "out")])
    assert len(started) == 1


def test_set_leaves_the_plain_rows_without_carbs_keys(prepared, tmp_path) -> None:
    path = write_suite(tmp_path, prepared / "config.yaml")
    suite = read_suite(str(path), ["region_weight=1", "queue_size=7", "lr=0.02"])
    plain, carb = (suite.config_of(row, 0) for row in rows_of(suite))
    default = read_suite(str(path), ["lr=0.02"])
    assert plain == default.config_of(default.rows["Base"], 0)
    assert (carb.region_weight, carb.queue_size, carb.lr) == (1, 7, 0.02)
    assert suite.start_row(suite.rows["Base + CARB"]).name == "Base"
    # so the plain runs of another table serve this one
    out = tmp_path / "out"
    plant(path, out, {("Base", 0): {"miou": 0.3}})
    command = [str(path), "--out", str(out), "--table-only", "--set", "region_weight=1", "lr=0.01"]
    ablation.main(command)
    text = (out / "ablation.md").read_text(encoding="utf-8")
    assert "| Base | 1 | 30.0 " in text
    assert f"{prepared / 'config.yaml'} with region_weight=1, lr=0.01; split val" in text


@pytest.mark.parametrize(
    "key", ["data_root", "clip_model", "image_labels", "pseudo_masks", "backbone_weights"]
)
def test_runs_on_other_files_are_refused_before_anything_runs(
    prepared, tmp_path, monkeypatch, key
) -> None:
    suite, out = write_suite(tmp_path, prepared / "config.yaml"), tmp_path / "out"
    plant(suite, out, {("Base + CARB", 7): {"miou": 0.3}})  # a seed nobody asks for
    monkeypatch.setattr(ablation, "run_jobs", lambda *_: pytest.fail("it ran"))
    for only in ([], ["--table-only"]):
        command = [str(suite), "--out", str(out), "--seeds", "0", "--rows", "Base", *only]
        with pytest.raises(InputError, match=rf"base_carb_7 holds .*\({key}: .* -> elsewhere\)"):
            ablation.main([*command, "--set", f"{key}=elsewhere"])


def test_how_often_something_is_written_may_change(prepared, tmp_path) -> None:
    suite, out = write_suite(tmp_path, prepared / "config.yaml"), tmp_path / "out"
    plant(suite, out, {("Base", 0): {"miou": 0.3}})
    often = ["num_workers=1", "log_every=3", "checkpoint_every=3"]
    ablation.main([str(suite), "--out", str(out), "--table-only", "--set", *often])
    assert "| Base | 1 | 30.0 " in (out / "ablation.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_stopping_ends_the_children(prepared, tmp_path) -> None:
    suite = write_suite(
        tmp_path,
        prepared / "config.yaml",
        rows={"Supervised": {"stage": "supervised"}},
        contrasts={},
        make_masks=False,
    )
    out = tmp_path / "out"
    command = ["-m", "experiments.ablation", str(suite), "--out", str(out)]
    command += ["--set", "steps=100000", "checkpoint_every=1"]
    process = subprocess.Popen(
        [sys.executable, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        last = out / "supervised_0/last.pt"
        while not last.is_file() and process.poll() is None:
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGTERM)
        shown, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopping supervised_0; run the same command again to resume" in shown
    lines = len(tiny.read_metrics(out / "supervised_0"))
    time.sleep(1)
    assert len(tiny.read_metrics(out / "supervised_0")) == lines


def test_every_slot_has_its_cores_and_its_gpu(monkeypatch) -> None:
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(10)), raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    slots = [environment(slot, 4) for slot in range(4)]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "1", "0", "1"]
    assert {slot["OMP_NUM_THREADS"] for slot in slots} == {"2"}
    assert environment(0, 16)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environment(3, 4)["CUDA_VISIBLE_DEVICES"] == "5"
    assert environment(3, 4)["OMP_NUM_THREADS"] == "7"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert environment(0, 1)["CUDA_VISIBLE_DEVICES"] == ""


BAD = {
    "expected the keys config, .*, contrasts; found .*, contrast$": {"contrast": {}},
    "expected the keys config, .*, contrasts; found .*, set$": {"set": {}},
    "contrast 'x': no row 'Bass'; expected Base, Base . CARB": {
        "contrasts": {"x": [["Bass", "Base"]]}
    },
    "must be a list of .row, minus row.": {"contrasts": {"x": ["Base"]}},
    "'against', Bass: no row 'Bass'; expected Base, Base . CARB": {"against": "Bass"},
    "'against', Base: no row 'Bass'": {"against": {"Base": ["Bass"]}},
    "'against', Base: expected a list of rows, found 3": {"against": {"Base": 3}},
    "'settings' must be 'name: value' lines, found 3": {"settings": 3},
    "unknown key 'stepz'; did you mean 'steps'": {"settings": {"stepz": 3}},
    "--set can't decide seed for all rows": {"settings": {"seed": 3}},
    "'stage' must be one of masks, supervised, warmup, carb, found train": {
        "rows": {"A": {"stage": "train"}}
    },
    "row 'A': unknown key 'veiws'; did you mean 'views'": {
        "rows": {"A": {"stage": "warmup", "veiws": "base"}}
    },
    "row 'A' can't decide carb": {"rows": {"A": {"stage": "warmup", "carb": True}}},
    "row 'A' can't decide steps": {"rows": {"A": {"stage": "warmup", "steps": 9}}},
    "'A' and 'a!' would be the same folder": {
        "rows": {"A": {"stage": "warmup"}, "a!": {"stage": "carb"}}
    },
    "'A' and 'B' would be the same run": {
        "rows": {"A": {"stage": "warmup"}, "B": {"stage": "warmup", "queue_size": 3}}
    },
    "must be different whole numbers": {"seeds": [0, 0]},
    "'config' must name a config file, found configs/none": {"config": "configs/none.yaml"},
    "'make_masks' must be true or false, found maybe": {"make_masks": "maybe"},
    "'rows' is empty": {"rows": {}},
    "'rows' must be 'name: value' lines": {"rows": ["Base"]},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_suites_get_a_message(prepared, tmp_path, message) -> None:
    values = {"contrasts": {}} | BAD[message]
    suite = write_suite(tmp_path, prepared / "config.yaml", **values)
    with pytest.raises(InputError, match=message):
        read_suite(str(suite), [])


def test_bad_command_lines_get_a_message(prepared, tmp_path) -> None:
    suite = str(write_suite(tmp_path, prepared / "config.yaml"))
    out = ["--out", str(tmp_path / "out")]
    for arguments, message in (
        (["--rows", "Bas"], "--rows: no row 'Bas'; expected Base, Base . CARB"),
        (["--set", "views=dual"], "row 'Base' of .* does"),
        (["--set", "seed=3"], "--seeds do"),
        (["--set", "lrr=3"], "unknown key 'lrr'; did you mean 'lr'"),
    ):
        with pytest.raises(InputError, match=message):
            ablation.main([suite, *out, *arguments])
    with pytest.raises(InputError, match="no suite file at"):
        ablation.main([str(tmp_path / "none.yaml"), *out])


SUITES = sorted([*Path("experiments/suites").glob("*.yaml"), *Path("demo/suites").glob("*.yaml")])


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_the_shipped_suites_are_valid_and_can_be_planned(path) -> None:
    suite = read_suite(str(path), [])
    assert len(suite.seeds) in (1, 2, 3, 5) and suite.contrasts
    _, first, *later = planned(suite, rows_of(suite), suite.seeds, Path("nowhere"))
    jobs = [job.name for jobs in (first, *later) for job in jobs]
    assert first and {r.folder(s) for r in rows_of(suite) for s in suite.seeds} <= set(jobs)
    carb = {r.folder(s) for r in rows_of(suite) for s in suite.seeds if r.stage == "carb"}
    assert carb <= {job.name for jobs in later for job in jobs}
    # what it says how to run it with is itself, under the name that the report finds it by
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"(?:experiments|demo)/suites/(\w+)\.yaml --out runs/(\w+)", text)
    named += [(name, name) for name in re.findall(r"SUITE=(\w+) bash", text)]
    assert all(names == (path.stem, path.stem) for names in named)


NAMES = ("experiments/suites/cityscapes", "demo/suites/demo")


def test_settings_of_a_suite_are_those_of_all_rows_and_the_command_line_replaces_them() -> None:
    path = "demo/suites/demo_balance.yaml"
    for overrides, root in (([], "data/demo_100"), (["data_root=there"], "there")):
        suite = read_suite(path, overrides)
        for row in rows_of(suite):
            config = suite.config_of(row, 0)
            assert (config.data_root, config.clip_text) == (root, "data/demo/clip_text.pt")
    assert {row.settings.get("region_balance", "global") for row in rows_of(suite)} == {
        *REGION_BALANCES
    }


def test_the_sweeps_of_the_demo_are_those_of_cityscapes_at_its_scale() -> None:
    """Sizes by four; the same ratios."""
    city, demo = (read_suite(f"{n}_patch_size.yaml", []) for n in NAMES)
    sizes = [[row.settings["patch_size"] for row in rows_of(suite)] for suite in (city, demo)]
    assert sizes[0] == [[4 * side for side in size] for size in sizes[1]]
    ratios = [read_suite(f"{name}_resize_ratio.yaml", []).rows for name in NAMES]
    assert ratios[0] == ratios[1]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"RUN": "runs/a b"}, "demo/suites/demo_ablation.yaml --out runs/a b"),
        (
            {"SUITE": "demo_patch_size"},
            "demo/suites/demo_patch_size.yaml --out runs/demo_patch_size",
        ),
    ],
)
def test_the_demos_ablation_makes_the_demos_scenes_first(tmp_path, variables, expected) -> None:
    copy = program.copy(tmp_path)
    (copy / ".venv/bin/python").write_text('#!/bin/sh\necho "$@"\n')
    done = subprocess.run(
        ["bash", str(copy / "scripts/demo_ablation.sh"), "--jobs", "2"],
        env=os.environ | variables,
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    scenes, run = done.stdout.splitlines()
    assert run == f"-m experiments.ablation {expected} --jobs 2"
    demo = (copy / "run_demo.sh").read_text()
    (counts,) = set(re.findall(r"\{SCENES:-([^}]*)\}", demo))
    (seed,) = set(re.findall(r"\{SCENE_SEED:-([^}]*)\}", demo))
    data = load_config("demo/config.yaml").data_root
    assert scenes == f"-m demo.make_scenes --root {data} --count {counts} --seed {seed}"
    suite = read_suite("demo/suites/demo_ablation.yaml", [])
    assert suite.config == "demo/config.yaml"
    assert "bash scripts/demo_ablation.sh" in Path(suite.path).read_text()
