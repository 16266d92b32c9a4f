"""tools/ablation.py: what is run, what is not run again, and what the tables say."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import yaml

import gen_clip_masks
import prepare_data
from tools import ablation
from tools.ablation_queue import environment
from tools.ablation_suite import read_suite
from utils.config import load_config, save_config
from utils.errors import InputError

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
        "set": {},
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
    command = [str(suite), "--out", str(out), "--jobs", "2", "--gpus", "0"]
    ablation.main(command)
    shown = capsys.readouterr().out
    assert "6 of 6 jobs to run, 2 at a time" in shown
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
    assert [line["step"] for line in lines] == [3, 4] and "balance" in lines[0]
    log = (out / "base_carb_1/job.log").read_text()
    assert "--init" in log and str(out / "base_1/warmup.pt") in log
    masks = json.loads((out / "pseudo_masks_val/score.json").read_text())
    assert content["pseudo_masks"] == masks
    text = (out / "ablation.md").read_text()
    assert text in shown
    assert f"| CLIP's pseudo-masks | - | {100 * masks['miou']:.1f} |" in text
    assert "4 steps" in text and "2 seeds" in text and "2 images" in text

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")}
    logs = {path: path.read_text() for path in out.rglob("*.log")}
    ablation.main(command)
    assert "0 of 5 jobs to run" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")} == times
    assert {path: path.read_text() for path in out.rglob("*.log")} == logs
    assert (out / "ablation.md").read_text() == text

    # a new checkpoint is scored again, without training
    os.utime(out / "base_carb_0/last.pt")
    ablation.main(command)
    shown = capsys.readouterr().out
    assert "started base_carb_0" in shown and "started base_0" not in shown
    assert "is finished" in (out / "base_carb_0/job.log").read_text()

    with pytest.raises(InputError, match=r"other settings \(lr: 0.01 -> 0.02\)"):
        ablation.main([*command, "--set", "lr=0.02"])


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
        ablation.main([str(suite), "--out", str(out), "--seeds", "3", "--gpus", "0"])
    assert stopped.value.code == 1
    shown = capsys.readouterr()
    assert "FAILED broken_3" in shown.out and "none.pt" in shown.out
    assert "skipped broken_carb_3: it needs broken_3" in shown.out
    assert "finished supervised_3" in shown.out
    assert "2 jobs failed or were skipped: broken_3, broken_carb_3" in shown.err
    text = (out / "ablation.md").read_text()
    assert "| Broken | 0 | not run: `python -m tools.ablation" in text and "--rows Broken`" in text


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
    gains = [5.0, -1.0, 6.0]
    spread = f"{statistics.mean(gains):+.1f} ± {statistics.stdev(gains):.1f}"
    lines = capsys.readouterr().out.splitlines()
    assert "| row | seeds | mIoU | small | large | seed 0 | seed 1 | seed 2 |" in lines
    assert "| Base | 3 | 32.0 ± 2.0 | 10.0 ± 0.0 | - | 30.0 | 34.0 | 32.0 |" in lines
    assert (
        f"| Base + CARB − Base | 3 | {spread} | +20.0 ± 0.0 | - | +5.0 | -1.0 | +6.0 | + − + |"
    ) in lines
    missing = next(line for line in lines if line.startswith("| Dual − Base | 0 |"))
    assert f"tools.ablation {suite} --out {out} --rows Dual Base`" in missing
    content = json.loads((out / "ablation.json").read_text())
    (line,) = content["contrasts"]["CARB"]
    assert [line["seeds"][seed]["mIoU"] for seed in "012"] == pytest.approx(gains)
    assert line["std"]["mIoU"] == pytest.approx(statistics.stdev(gains))
    assert content["contrasts"]["Dual"][0]["mean"]["mIoU"] is None


def test_runs_scored_in_another_way_or_at_another_step_do_not_mix(prepared, tmp_path) -> None:
    suite = write_suite(tmp_path, prepared / "config.yaml")
    out = tmp_path / "out"
    early = {"miou": 0.2, "step": 2}
    plant(suite, out, {("Base", 0): {"miou": 0.3}, ("Base", 1): early})
    command = [str(suite), "--out", str(out), "--table-only"]
    ablation.main(command)
    assert list(json.loads((out / "ablation.json").read_text())["rows"]["Base"]["seeds"]) == ["0"]
    plant(suite, out, {("Base + CARB", 0): {"miou": 0.3, "inference": {"flip": True}}})
    with pytest.raises(InputError, match="scored with other inference"):
        ablation.main(command)


def test_shared_warm_ups(prepared, tmp_path) -> None:
    rows = {
        "Dual, w = 0.5": {"stage": "carb", "balance": "fixed", "balance_coefficient": 0.5},
        "Dual": {"stage": "warmup"},
        "Dual + CARB": {"stage": "carb"},
        "Slow + CARB": {"stage": "carb", "lr": 0.001},
        "Slow, w = 1": {"stage": "carb", "lr": 0.001, "balance": "fixed"},
    }
    path = write_suite(tmp_path, prepared / "config.yaml", rows=rows, contrasts={}, seeds=[5])
    suite = read_suite(str(path), ["batch_size=2"])
    jobs = ablation.plan(suite, list(suite.rows.values()), [5], tmp_path / "out")
    needs = {job.name: job.needs for job in jobs}
    assert needs == {
        "pseudo_masks_val": (),
        "dual_5": (),
        "dual_w_0.5_5": ("dual_5",),
        "dual_carb_5": ("dual_5",),
        "slow_carb_warmup_5": (),
        "slow_carb_5": ("slow_carb_warmup_5",),
        "slow_w_1_5": ("slow_carb_warmup_5",),
    }
    assert list(needs).index("dual_5") < list(needs).index("dual_w_0.5_5")
    train = next(job for job in jobs if job.name == "dual_w_0.5_5").commands[0]
    assert train[0] == "train_carb.py" and "balance_coefficient=0.5" in train
    assert "batch_size=2" in train and "seed=5" in train


@pytest.mark.slow
def test_stopping_ends_the_children(prepared, tmp_path) -> None:
    suite = write_suite(
        tmp_path,
        prepared / "config.yaml",
        set={"steps": 100000, "checkpoint_every": 1},
        rows={"Supervised": {"stage": "supervised"}},
        contrasts={},
        make_masks=False,
    )
    out = tmp_path / "out"
    command = ["-m", "tools.ablation", str(suite), "--out", str(out), "--gpus", "0"]
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
    assert process.returncode == 130
    assert "stopping supervised_0; the same command again goes on" in shown
    lines = len(tiny.read_metrics(out / "supervised_0"))
    time.sleep(1)
    assert len(tiny.read_metrics(out / "supervised_0")) == lines


def test_every_slot_has_its_cores_and_its_gpu(monkeypatch) -> None:
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(10)), raising=False)
    slots = [environment(slot, 4, 2) for slot in range(4)]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "1", "0", "1"]
    assert {slot["OMP_NUM_THREADS"] for slot in slots} == {"2"}
    assert environment(0, 16, 0)["OMP_NUM_THREADS"] == "1"
    assert environment(0, 1, 0)["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environment(3, 4, 2)["CUDA_VISIBLE_DEVICES"] == "5"
    assert environment(3, 4, 2)["OMP_NUM_THREADS"] == "7"


BAD = {
    "unknown key 'contrast'; did you mean 'contrasts'": {"contrast": {}},
    "unknown row 'Bass'; did you mean 'Base'": {"contrasts": {"x": [["Bass", "Base"]]}},
    "must be a list of .row, minus row.": {"contrasts": {"x": ["Base"]}},
    "'stage' must be one of supervised, warmup, carb, found train": {
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
    "'config' must name a config file": {"config": "configs/none.yaml"},
    "'make_masks' must be true or false, found maybe": {"make_masks": "maybe"},
    "'set' can't decide seed": {"set": {"seed": 3}},
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
        (["--rows", "Bas"], "unknown row 'Bas'; did you mean 'Base'"),
        (["--set", "views=dual"], "row 'Base' of .* does"),
        (["--set", "seed=3"], "--seeds do"),
        (["--set", "lrr=3"], "unknown key 'lrr'; did you mean 'lr'"),
    ):
        with pytest.raises(InputError, match=message):
            ablation.main([suite, *out, *arguments])
    with pytest.raises(InputError, match="no suite file at"):
        ablation.main([str(tmp_path / "none.yaml"), *out])


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*_ablation.yaml")), ids=str)
def test_the_shipped_suites_are_valid(path) -> None:
    suite = read_suite(str(path), [])
    assert len(suite.seeds) >= 3 and suite.contrasts
