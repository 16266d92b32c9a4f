"""--tensorboard: training is the same with and without it, and what it wrote is read back."""

import importlib.util
import io
import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import gen_clip_masks
import prepare_data
import train_carb
import train_warmup
from datasets.labels import load_classes
from utils.checkpoint import load_checkpoint
from utils.safe.errors import InputError

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="pip install tensorboard"
)
CLASSES = load_classes("datasets/classes/cityscapes.yaml")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw data -> image-level labels -> pseudo-masks."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny.make_cityscapes(folder / "data")
    tiny.make_clip(folder / "clip.pt")
    # dropout, so that a number drawn from torch's generator would be noticed
    changes = {"dropout": 0.3, "checkpoint_every": 2, "log_every": 1}
    config = tiny.make_config(folder, **changes)
    root, labels = str(folder / "data"), str(folder / "image_labels.json")
    prepare_data.main(["cityscapes", "--root", root, "--out", labels, "--splits", "train"])
    gen_clip_masks.main(["--config", str(config)])
    return folder


def arguments(prepared: Path, run_dir: Path, *more: str) -> list[str]:
    config = str(prepared / "config.yaml")
    return ["--config", config, "--device", "cpu", "--run-dir", str(run_dir), *more]


def train(prepared: Path, run: Path, *more: str) -> None:
    """Warm-up and CARB: 4 + 4 steps."""
    train_warmup.main(arguments(prepared, run / "warmup", *more))
    init = ["--init", str(run / "warmup/warmup.pt")]
    train_carb.main(arguments(prepared, run / "carb", *init, *more))


def logged(run_dir: Path) -> list[dict]:
    """The log without what depends on the clock."""
    lines = tiny.read_metrics(run_dir)
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def events(run_dir: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run_dir / "tensorboard"), {"images": 0, "scalars": 0})
    return found.Reload()


def pictures(run_dir: Path) -> dict[int, np.ndarray]:
    shown = events(run_dir).Images("fixed batch")
    return {e.step: np.array(Image.open(io.BytesIO(e.encoded_image_string))) for e in shown}


@needs_package
@pytest.mark.parametrize("views", ["base", "dual"])
def test_training_is_the_same_bit_for_bit(prepared, tmp_path, monkeypatch, views):
    train(prepared, tmp_path / "without", "--set", f"views={views}")

    seen = []
    build = train_warmup.build_preview

    def watched(config, classes, ranks, model, *rest):
        draw = build(config, classes, ranks, model, *rest)
        return lambda: watch(draw, model)

    def watch(draw, model):
        before = [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]
        buffers = {name: value.clone() for name, value in model.state_dict().items()}
        picture = draw()
        after = [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]
        assert before == after
        assert all(torch.equal(value, buffers[name]) for name, value in model.state_dict().items())
        assert all(module.training for module in model.modules())
        seen.append(picture.shape)
        return picture

    for script in (train_warmup, train_carb):
        monkeypatch.setattr(script, "build_preview", watched)
    train(prepared, tmp_path / "with", "--tensorboard", "--set", f"views={views}")
    assert len(seen) == 4 and len(set(seen)) == 1
    for stage in ("warmup", "carb"):
        runs = [tmp_path / kind / stage for kind in ("without", "with")]
        assert logged(runs[0]) == logged(runs[1])
        weights = [load_checkpoint(run / "last.pt")["model"] for run in runs]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not (tmp_path / "without/carb/tensorboard").exists()


@needs_package
def test_events_are_the_lines_of_the_log(prepared, tmp_path):
    train(prepared, tmp_path, "--tensorboard")
    for stage, steps in (("warmup", [1, 2, 3, 4]), ("carb", [5, 6, 7, 8])):
        found, lines = events(tmp_path / stage), tiny.read_metrics(tmp_path / stage)
        of_classes = {key for key in lines[0] if key.startswith("class_")}
        expected = lines[0].keys() - of_classes - {"step"}
        expected |= {f"{key}/{name}" for key in of_classes for name in CLASSES.names}
        assert of_classes == {"class_share", "class_mask", "class_consistent"}
        assert set(found.Tags()["scalars"]) == expected
        for tag in expected:
            key, _, name = tag.partition("/")
            values = [line[key][CLASSES.names.index(name)] if name else line[key] for line in lines]
            scalars = found.Scalars(tag)
            assert [event.step for event in scalars] == steps
            np.testing.assert_allclose([e.value for e in scalars], values, rtol=1e-6)
        assert list(pictures(tmp_path / stage)) == steps[1::2]


@needs_package
def test_pictures_are_of_one_batch(prepared, tmp_path):
    """Image and pseudo-mask stay, the consistent region is where mask and prediction agree."""
    train(prepared, tmp_path, "--tensorboard", "--set", "batch_size=2", "--set", "lr=0.1")
    shown = pictures(tmp_path / "warmup") | pictures(tmp_path / "carb")
    assert len({picture.shape for picture in shown.values()}) == 1
    size = (1800 - 6) // 4 - 6
    width, height = 64 * (size // 64), 48 * (size // 64)
    first = shown[2]
    top = next(y for y in range(200) if (first[y, 6 : 6 + width] != 255).any(-1).all())
    panels = {
        step: [picture[top:, 6 + k * (width + 6) :][: 2 * height + 6, :width] for k in range(4)]
        for step, picture in shown.items()
    }
    for image, mask, prediction, consistent in panels.values():
        np.testing.assert_array_equal(image, panels[2][0])
        np.testing.assert_array_equal(mask, panels[2][1])
        for part in (slice(0, height), slice(height + 6, None)):
            agree = (mask[part] == prediction[part]).all(-1) & mask[part].any(-1)
            np.testing.assert_array_equal(
                consistent[part], np.where(agree[..., None], mask[part], 0)
            )
    assert (panels[2][2] != panels[8][2]).any()  # the network has learnt something


@needs_package
def test_a_resumed_run_shows_every_step_once(prepared, tmp_path, monkeypatch):
    step_of = train_warmup.prepare_views

    def interrupted(*args, **kwargs):
        if args[1] == 3:  # step 4: its checkpoint is of step 2
            raise KeyboardInterrupt
        return step_of(*args, **kwargs)

    more = ("--tensorboard", "--set", "carb=false")
    monkeypatch.setattr(train_warmup, "prepare_views", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_warmup.main(arguments(prepared, tmp_path / "run", *more))
    assert [event.step for event in events(tmp_path / "run").Scalars("loss")] == [1, 2, 3]
    monkeypatch.undo()
    time.sleep(1.1)  # event files are read in the order of the second in their names
    train_warmup.main(arguments(prepared, tmp_path / "run", *more))
    found = events(tmp_path / "run")
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 2
    assert [event.step for event in found.Scalars("loss")] == list(range(1, 9))
    assert [event.step for event in found.Images("fixed batch")] == [2, 4, 6, 8]
    losses = [line["loss"] for line in tiny.read_metrics(tmp_path / "run")]
    np.testing.assert_allclose([e.value for e in found.Scalars("loss")], losses, rtol=1e-6)
    # a finished run adds nothing
    before = sorted((tmp_path / "run/tensorboard").iterdir())
    train_warmup.main(arguments(prepared, tmp_path / "run", *more))
    assert sorted((tmp_path / "run/tensorboard").iterdir()) == before


@pytest.mark.parametrize("script", [train_warmup, train_carb])
def test_a_missing_package_is_said_before_anything_is_touched(
    prepared, tmp_path, monkeypatch, script
):
    check_a_missing_package(prepared, tmp_path, monkeypatch, script)


def check_a_missing_package(prepared, tmp_path, monkeypatch, script):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    (tmp_path / "config.yaml").write_text("a run that --overwrite would remove")
    more = ["--tensorboard", "--overwrite"]
    more += ["--init", "none.pt"] if script is train_carb else []
    with pytest.raises(InputError, match="--tensorboard needs .*pip install tensorboard"):
        script.main(arguments(prepared, tmp_path, *more))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
