"""Label maps of predict.py say which classes their ids mean."""

import json
from pathlib import Path

import pytest
from tiny_run import make_run

import export_masks
import predict
from datasets.mask_folder import check_class_names
from datasets.prediction_folder import note_class_names
from utils.safe.errors import InputError

NAMES = ("road", "pole", "sky")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def predicted(run: Path, out: Path, name: str = "t0", *more: str) -> None:
    image = run.parent / f"data/images/train/{name}.png"
    checkpoint = str(run / "warmup/warmup.pt")
    predict.main(["--ckpt", checkpoint, str(image), "--out", str(out), "--device", "cpu", *more])


def exported(folder: Path, *more: str) -> str:
    out = folder.with_name("polygons")
    export_masks.main([str(folder), "--format", "cityscapes", "--out", str(out), *more])
    return next(out.glob("*.json")).read_text()


def test_names_need_no_class_file(run: Path, tmp_path: Path) -> None:
    predicted(run, tmp_path / "out")
    predicted(run, tmp_path / "out", "t1", "--overwrite")  # one more image of the same classes
    found = {part["label"] for part in json.loads(exported(tmp_path / "out"))["objects"]}
    assert found and found <= {*NAMES}


@pytest.mark.parametrize("names", [["sky", "pole", "road"], [*NAMES, "car"]])
def test_a_class_file_of_other_classes_is_refused(run: Path, tmp_path: Path, names) -> None:
    predicted(run, tmp_path / "out")
    class_file = tmp_path / "classes.yaml"
    class_file.write_text(f"classes: [{', '.join(names)}]")
    with pytest.raises(InputError, match="were made for other classes"):
        exported(tmp_path / "out", "--class-file", str(class_file))
    with pytest.raises(InputError, match=r"in another folder: predict\.py --out"):
        check_class_names(tmp_path / "out", names)


def test_label_maps_of_other_classes_are_not_mixed(run: Path, tmp_path: Path) -> None:
    note_class_names(tmp_path / "out", ["sky", "pole", "road"])
    for more in ((), ("--overwrite",)):
        with pytest.raises(
            InputError,
            match=r"out holds label maps of other classes .sky, pole, road.*another folder",
        ):
            predicted(run, tmp_path / "out", "t0", *more)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["meta.json"]


def test_label_maps_of_a_version_without_names_get_none(run: Path, tmp_path: Path) -> None:
    """They may be of other classes."""
    predicted(run, tmp_path / "out")
    (tmp_path / "out/meta.json").unlink()
    predicted(run, tmp_path / "out", "t1", "--overwrite")
    assert not (tmp_path / "out/meta.json").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"made_from": 1}', '{"made_from": {"method": "cam"}}'])
def test_a_meta_json_of_others_is_kept(run: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(InputError, match=r"meta\.json exists and is not of predict\.py"):
        predicted(run, tmp_path)
    assert (tmp_path / "meta.json").read_text() == text
