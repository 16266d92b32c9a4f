"""prepare_data.py --write-config --miniature: all stages on one's own data by the demo's CLIP."""

import json
import shutil

import pytest
from test_starting_config import make

import prepare_data
from demo.make_scenes import write_dataset
from models import clip_miniature
from utils.config import load_config
from utils.safe.errors import InputError


def test_classes_that_the_miniature_does_not_know(tmp_path, monkeypatch) -> None:
    root = make(tmp_path / "cows", [(8, 8)] * 2)
    (root / "classes.yaml").write_text("classes: [road, cow, {name: goat, prompt: car}]\n")
    out = tmp_path / "mine.yaml"
    arguments = ["folder", "--root", str(root), "--write-config", str(out), "--miniature"]
    with pytest.raises(
        InputError,
        match=r"1 of the 3 classes: cow \(unknown: 'cow'\)\. It knows road, sidewalk, .*,",
    ):
        prepare_data.main(arguments)
    assert not out.exists()
    (root / "classes.yaml").write_text("classes: [road, {name: cow, prompt: car}]\n")
    prepare_data.main(arguments)
    assert load_config(out).clip_model == "demo/weights/clip.pt"
    monkeypatch.setattr(clip_miniature, "_DEMO", tmp_path)
    with pytest.raises(InputError, match="--miniature needs .* leave it out"):
        prepare_data.main([*arguments, "--overwrite"])


@pytest.mark.slow
def test_dry_run_with_the_miniature(tmp_path) -> None:
    """The six commands of the README, on a few drawn streets as somebody's own data."""
    import eval as evaluate
    import gen_clip_masks
    import predict
    import train_carb
    import train_warmup

    write_dataset(tmp_path / "drawn", {"train": 6, "val": 2}, seed=3)
    root = tmp_path / "mydata"
    shutil.copytree(tmp_path / "drawn/images", root / "images")
    shutil.copy("demo/classes.yaml", root / "classes.yaml")
    labels = json.loads((tmp_path / "drawn/image_labels.json").read_text())
    rows = [f"{name},{';'.join(map(str, ids))}" for name, ids in labels.items()]
    (root / "labels.csv").write_text("\n".join(["image,labels", *rows]))
    out = tmp_path / "mine.yaml"
    given = ["folder", "--root", str(root), "--labels", str(root / "labels.csv")]
    prepare_data.main([*given, "--write-config", str(out), "--miniature"])
    prepare_data.main([*given, "--check", "--config", str(out)])
    common = ["--config", str(out), "--device", "cpu"]
    gen_clip_masks.main([*common, "--save-vis"])
    assert len(list((root / "clip_masks_miniature_vis").glob("*_overlay.png"))) == 6
    common += ["--set", "steps=3", "warmup_steps=2"]
    train_warmup.main([*common, "--run-dir", str(tmp_path / "warmup")])
    init = ["--init", str(tmp_path / "warmup/last.pt")]
    train_carb.main([*common, *init, "--run-dir", str(tmp_path / "carb")])
    trained = ["--ckpt", str(tmp_path / "carb/last.pt"), "--device", "cpu"]
    evaluate.main([*trained, "--save-vis"])
    predict.main([*trained, str(root / "images/val"), "--out", str(tmp_path / "predictions")])
    assert len(list((tmp_path / "predictions").glob("*_overlay.png"))) == 2
