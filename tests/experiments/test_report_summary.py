"""figures/summary.py and costs.py: a run's own result, and what the rest would cost."""

import json
from pathlib import Path

import pytest

from experiments.figures.commands import cost
from experiments.figures.runs import Run, read_inputs
from experiments.figures.summary import change, draw
from utils.config import load_config, save_config

CONFIG = "demo/config.yaml"  # 12 classes, 1200 steps of 4 images, CARB from step 960
RATE = 8.0  # images/s


def write_stage(run: Path, name: str, last: int, miou: float | None, **ious: float) -> None:
    folder = run / name
    (folder / "eval_val").mkdir(parents=True)
    root = str(run.parent / "data")
    save_config(load_config(CONFIG, ["seed=3", f"data_root={root}"]), folder / "config.yaml")
    line = json.dumps({"step": last, "images_per_second": RATE})
    (folder / "metrics.jsonl").write_text(f"{line}\n")
    (folder / "git.txt").write_text("0123456789abcdef\ndiff --git a/x b/x\n" * (name == "carb"))
    (folder / "last.pt").touch()
    if miou is not None:
        classes = {key: {"iou": value, "ground_truth": 1} for key, value in ious.items()}
        scores = {"miou": miou, "step": last, "num_images": 7, "classes": classes}
        (folder / "eval_val/metrics.json").write_text(json.dumps(scores))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """RUN/{warmup,carb} and the score of the pseudo-masks; the data set is not here."""
    folder = tmp_path / "a|b"
    write_stage(folder, "warmup", 960, 0.25, road=0.5, pole=0.4, sky=0.1)
    write_stage(folder, "carb", 1200, 0.375, road=0.75, pole=0.3, sky=0.1)
    (folder / "masks_val").mkdir()
    (folder / "masks_val/score.json").write_text(json.dumps({"miou": 0.5, "miou_small": 0.125}))
    return read_inputs([str(folder)])[0][0]


def cells(table: str) -> list[list[str]]:
    rows = [line.replace("\\|", "¦").strip("|").split("|") for line in table.splitlines()]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_a_run_opens_with_its_scores_and_how_it_was_trained(run, tmp_path) -> None:
    [figure] = draw([run], "val", tmp_path / "out")
    assert figure.title == "Result of a|b" and "On 7 images of 'val'" in figure.caption
    assert cells(figure.tables[0]) == [
        ["CLIP pseudo-masks", "-", "50.0", "12.5", "-"],
        ["warm-up", "960", "25.0", "-", "-"],
        ["CARB", "1200", "37.5", "-", "-"],
    ]
    facts = dict(cells(figure.tables[1]))
    assert facts["data"].endswith("data (not here)") and facts["seed"] == "3"
    assert facts["steps"] == "1200, the first 960 as warm-up"
    assert facts["commit"] == "0123456789 with changes"
    network = f"{tmp_path}/a¦b/carb/last.pt"
    assert facts["network"] == f"`{network}`"
    command = f"python predict.py --ckpt '{network}' IMAGES --out FOLDER"
    assert facts["on your images"] == f"`{command}`"
    assert figure.tables[2].endswith("fewer steps: road +25.0, pole -10.0.")
    assert figure.missing == () and json.loads(figure.data.read_text())["split"] == "val"


def test_what_was_not_scored_or_not_finished_is_said(tmp_path) -> None:
    write_stage(tmp_path / "run", "warmup", 400, None)
    runs, _ = read_inputs([str(tmp_path / "run")])
    [figure] = draw(runs, "val", tmp_path / "out")
    assert cells(figure.tables[0]) == [["warm-up", "-", "-", "-", "-"]]
    assert dict(cells(figure.tables[1]))["steps"] == "400 of 1200"
    assert dict(cells(figure.tables[1]))["commit"] == "unknown"
    [missing] = figure.missing
    assert missing.command.startswith(f"python eval.py --ckpt {tmp_path}/run/warmup/last.pt")
    assert len(figure.tables) == 2 and change(runs[0], "val") == ""


def test_of_several_runs_each_has_lines_and_a_column(run, tmp_path) -> None:
    write_stage(tmp_path / "other", "warmup", 960, 0.3)
    [figure] = draw([run, *read_inputs([str(tmp_path / "other")])[0]], "val", tmp_path / "out")
    names = ["a¦b: CLIP pseudo-masks", "a¦b: warm-up", "a¦b: CARB", "other: warm-up"]
    assert [row[0] for row in cells(figure.tables[0])] == names
    assert [row[2] for row in cells(figure.tables[1]) if row[0] == "steps"] == ["960 of 1200"]


def test_costs_are_this_runs_own_speed(run) -> None:
    """33 trainings of 1200 steps of 4 images at 8 images/s: 19 800 s."""
    said = cost("bash scripts/demo_ablation.sh", [run])
    assert (
        said.startswith("about 6 h: at most 33 trainings of 1200 steps, at ") and "8 imag" in said
    )
    suite = "demo/suites/demo_ablation.yaml"
    assert cost(f"python -m experiments.ablation {suite} --out runs/x", [run]) == said
    part = f"python -m experiments.ablation {suite} --rows Dual 'Dual + CARB' --seeds 0"
    assert "at most 2 trainings" in cost(part, [run])
    assert cost("bash run_demo.sh", [run]).startswith("about 10 min: 1 training of 1200 steps")
    swept = cost("SUITE=demo_resize_ratio bash scripts/demo_ablation.sh", [run])
    assert "18 trainings" in swept


def test_images_count_for_masks_and_evaluations(run, tmp_path) -> None:
    images = tmp_path / "data/images/val"
    images.mkdir(parents=True)
    for number in range(1000):
        (images / f"{number}.png").touch()
    masks = f"python gen_clip_masks.py --config '{run.last.folder}/config.yaml' --split val"
    assert cost(masks, [run]).startswith("about 2 min: 1000 images")
    assert cost(f"{masks} --ratio 2", [run]).startswith("about 8 min")  # four times the pixels
    scores = f"python eval.py --ckpt '{run.last.checkpoint}' --split val"
    assert cost(scores, [run]).startswith("about 2 min: 1000 images")
    assert cost(masks, []) == "minutes: 1000 images"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("bash run_wilddash2.sh", "hours on a GPU each: 1 training of"),
        (
            "python -m experiments.ablation experiments/suites/cityscapes_table1.yaml",
            "hours on a GPU each:",
        ),
        ("bash run_nothing.sh", ""),
        ("python eval.py --ckpt nowhere/last.pt --split val", ""),
        ("python prepare_data.py camvid", ""),
    ],
)
def test_without_such_a_run_the_cost_is_in_words(run, command, said) -> None:
    found = cost(command, [run])
    assert found.startswith(said) and bool(found) == bool(said)
