"""export.py: files that give what the network gives, or are not kept; bad input; the example."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_run import make_run

import export
import predict
from datasets.mask_folder import check_class_names
from datasets.transforms import normalize
from models import quantized
from models.export_check import check_agreement, onnx_runner, random_images, torch_runner
from models.exported import ExportedNetwork, require_packages, write_onnx, write_torch
from models.inference import predict_labels
from models.trained import load_trained
from utils.safe.errors import InputError, InputWarning

EXAMPLE = Path(__file__).resolve().parent.parent / "scripts/onnx_segment.py"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A run whose network is small, and what export.py makes of it in OUT."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("export")
    make_run(folder, backbone="resnet18_quarter", aspp_dilations=[2])
    shutil.copytree(folder / "data/images/train", folder / "frames")
    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        pytest.warns(InputWarning, match="has 6 images for --calibration: from fewer than 50"),
    ):
        export.main(arguments(folder, "onnx", "torch", int8=folder / "frames"))
    (folder / "printed.txt").write_text(printed.getvalue())
    return folder


@pytest.fixture(scope="module")
def runs(world) -> dict:
    """The files of OUT, loaded."""
    loaders = {"model.onnx": onnx_runner, "model_int8.onnx": onnx_runner, "model.pt2": torch_runner}
    return {name: load(world / "out" / name) for name, load in loaders.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of which nothing is exported."""
    folder = tmp_path_factory.mktemp("run")
    make_run(folder)
    return folder


def arguments(
    folder: Path, *formats: str, int8: Path | None = None, out: Path | None = None
) -> list[str]:
    more = ["--int8", "--calibration", str(int8)] if int8 else []
    checkpoint, out = str(folder / "run/warmup/warmup.pt"), str(out or folder / "out")
    return ["--ckpt", checkpoint, "--format", *formats, "--out", out, *more]


def network(folder: Path) -> torch.nn.Module:
    return load_trained(folder / "run/warmup/warmup.pt").model


@pytest.mark.parametrize("shape", [(1, 48, 64), (3, 37, 51), (1, 96, 33)])
@pytest.mark.parametrize("file", ["model.onnx", "model.pt2"])
def test_a_file_gives_the_networks_labels_at_every_size(world, runs, file, shape) -> None:
    images = random_images(shape, seed=7)
    logits, labels = runs[file](images)
    network_input = normalize(torch.from_numpy(images).permute(0, 3, 1, 2), "imagenet")
    wanted = predict_labels(network(world), network_input, shape[1:])
    assert labels.dtype == np.uint8 and logits.dtype == np.float32
    assert np.array_equal(labels, wanted.numpy()) and len(np.unique(labels)) > 1
    assert np.array_equal(labels, logits.argmax(1))


def test_the_metadata_says_what_the_file_is(world) -> None:
    import onnx

    model = onnx.load(world / "out/model.onnx")
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(found["class_names"]) == ["road", "pole", "sky"]
    assert np.array(json.loads(found["palette"])).shape == (3, 3)
    assert json.loads(found["image_size"]) == [48, 64]
    assert json.loads(found["origin"]) == {"stage": "warmup", "step": 4}
    assert found["git"] and found["command"] and "RGB" in found["input"]
    assert [opset.version for opset in model.opset_import if not opset.domain] == [18]
    names = [axis.dim_param for axis in model.graph.input[0].type.tensor_type.shape.dim]
    assert names == ["batch", "height", "width", ""]
    with zipfile.ZipFile(world / "out/model.pt2") as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("extra/metadata.json"))
        assert json.loads(archive.read(name)) == found
    int8 = onnx.load(world / "out/model_int8.onnx")
    of_int8 = {entry.key: entry.value for entry in int8.metadata_props}
    assert of_int8 == found | {"precision": "int8"}


def test_the_text_embeddings_are_inside_and_the_paths_of_this_machine_are_not(world) -> None:
    import onnx

    content = (world / "out/model.onnx").read_bytes()
    text = network(world).classifier.text_embeddings.numpy().reshape(3, 16, 1, 1)
    arrays = map(onnx.numpy_helper.to_array, onnx.load_from_string(content).graph.initializer)
    assert any(a.shape == text.shape and np.array_equal(a, text) for a in arrays)
    source = str(EXAMPLE.parent.parent / "models").encode()
    assert source not in content and source not in (world / "out/model.pt2").read_bytes()


def test_each_part_is_announced(world) -> None:
    lines = (world / "printed.txt").read_text().splitlines()
    starts = ["loading ", "model.onnx: exporting", "model.onnx agrees", "model.pt2: exporting"]
    starts += ["model.pt2 agrees", "model_int8.onnx: calibrating on 6 images", "model_int8.onnx "]
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=False))
    assert len(lines) == 1 + len(starts)


def test_int8_is_smaller_and_mostly_agrees(world, runs) -> None:
    sizes = [(world / "out" / name).stat().st_size for name in ("model_int8.onnx", "model.onnx")]
    assert sizes[0] < 0.5 * sizes[1]
    images = random_images((2, 48, 64), seed=3)
    one, other = (runs[name](images)[1] for name in ("model.onnx", "model_int8.onnx"))
    assert 0.7 < (one == other).mean() < 1
    card = (world / "out/README.md").read_text(encoding="utf-8")
    assert "on the 6 images that it was calibrated on" in card


def test_int8_that_changes_many_classes_is_said(world, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(quantized, "agreement", lambda *files: quantized.Agreement(0.9, 2))
    images = random_images((2, 48, 64), seed=3)
    with pytest.warns(InputWarning, match=r"int8 10\.0% of the pixels change their class; measure"):
        quantized.write_int8(world / "out/model.onnx", tmp_path / "x.onnx", list(images[:, None]))


def test_the_folder_holds_no_more_than_the_card_lists(world) -> None:
    names = {path.name for path in (world / "out").iterdir()}
    card = (world / "out/README.md").read_text(encoding="utf-8")
    models = {"model.onnx", "model_int8.onnx", "model.pt2", "config.yaml", "onnx_segment.py"}
    assert names == models | {"README.md", "MODEL_CARD.md"}
    assert all(f"| `{name}` |" in card for name in models)
    assert card == (world / "out/MODEL_CARD.md").read_text(encoding="utf-8")
    config = yaml.safe_load((world / "out/config.yaml").read_text())
    assert config == load_trained(world / "run/warmup/warmup.pt").config.to_dict()


def test_the_example_needs_neither_torch_nor_this_repository(world, runs, tmp_path) -> None:
    """Its own copy, in another folder, where importing torch fails."""
    for name in ("torch", "datasets", "models", "utils"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('no {name} here')")
    shutil.copy(world / "out/onnx_segment.py", tmp_path)
    Image.fromarray(random_images((1, 120, 161), seed=5)[0]).save(tmp_path / "street.png")
    command = [sys.executable, "onnx_segment.py", str(world / "out/model.onnx"), "street.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = Image.open(tmp_path / "labels/street.png")
    labels = np.asarray(written)
    predict.main(["--ckpt", str(world / "run/warmup/warmup.pt"), "--out", str(tmp_path / "ours"),
                  "--device", "cpu", str(tmp_path / "street.png")])  # fmt: skip
    wanted = np.asarray(Image.open(tmp_path / "ours/street.png"))
    assert len(np.unique(wanted)) > 1
    assert (labels == wanted).mean() > 0.995  # pixels may be rounded differently
    palette = load_trained(world / "run/warmup/warmup.pt").classes.palette
    assert written.getpalette()[:9] == palette.ravel().tolist()
    check_class_names(tmp_path / "labels", ["road", "pole", "sky"])
    with pytest.raises(InputError, match="were made for other classes"):
        check_class_names(tmp_path / "labels", ["sky", "pole", "road"])


@pytest.fixture
def example(world, tmp_path, monkeypatch) -> Callable[..., str]:
    """Runs the example on images in tmp_path; its error, and no traceback."""
    rows = random_images((1, 40, 50), seed=5)[0]
    Image.fromarray(rows).save(tmp_path / "a.png")
    Image.fromarray(rows[..., 0].astype(np.uint16) * 200).save(tmp_path / "deep.png")
    (tmp_path / "text.jpg").write_text("no image")
    for folder in ("old", "more"):
        (tmp_path / folder).mkdir()
        shutil.copy(tmp_path / "a.png", tmp_path / folder)
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")

    def run(*arguments: str, model: Path = world / "out/model.onnx") -> str:
        command = [sys.executable, str(EXAMPLE), str(model), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png"], "no file at none.png"),
        (["a.png", "old"], "no file at old"),
        (["text.jpg"], "text.jpg: cannot identify image file"),
        (["deep.png"], "deep.png: expected 8 bits a channel"),
        (["a.png", "--out", "."], "--out . exists already"),
        (["a.png", "--out", "old"], "--out old exists already"),
        (["a.png", "--out", "b.png"], "--out b.png exists already"),
        (["a.png", "more/a.png"], "more/a.png: .*File exists"),
    ],
)
def test_the_example_refuses_with_a_message_and_replaces_nothing(
    example, tmp_path, arguments: list[str], message: str
) -> None:
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    assert re.search(message, example(*arguments))
    assert (
        before.items()
        <= {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}.items()
    )


@pytest.mark.parametrize("model", ["model.onnx", "old"])
def test_the_example_names_what_is_no_model(example, tmp_path, model: str) -> None:
    assert f"no file at {tmp_path / model}" in example("b.png", model=tmp_path / model)


def test_the_example_is_short() -> None:
    """At most 40 lines of code, without its docstring and blank lines."""
    code = EXAMPLE.read_text(encoding="utf-8").split('"""', 2)[2].splitlines()
    assert sum(bool(line.strip()) for line in code) <= 40


def right(images: np.ndarray, model: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = ExportedNetwork(model)(torch.from_numpy(images))
    return logits.numpy().copy(), labels.numpy().copy()


def moved(logits, labels):
    logits[0, 1, 3, 5] += 1


def not_a_number(logits, labels):
    logits[0, 0, 2, 2] = np.nan


def another_class(logits, labels):
    labels[0, 4, 6] = (labels[0, 4, 6] + 1) % 3


@pytest.mark.parametrize(
    "spoil, told",
    [
        (moved, r"class 1, row 3, column 5; allowed difference"),
        (not_a_number, r"a logit is nan instead of .*row 2, column 2"),
        (another_class, r"at 1 of 6144 pixels, first in image 0, row 4, column 6"),
    ],
)
def test_a_file_that_differs_is_not_kept(run, tmp_path, monkeypatch, spoil, told) -> None:
    model = network(run)

    def spoilt(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, labels = right(images, model)
        spoil(logits, labels)
        return logits, labels

    monkeypatch.setitem(export.WRITERS, "torch", lambda model, path, about: path.write_text("x"))
    monkeypatch.setitem(export.RUNNERS, "torch", lambda path: spoilt)
    with pytest.raises(InputError, match=f"model.pt2 does not agree .*{told}.*not kept"):
        export.main(arguments(run, "torch", out=tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_fails_or_gives_another_size_differs(run) -> None:
    model = network(run)

    def failing(images: np.ndarray):
        raise AssertionError("Guard failed: even")

    with pytest.raises(InputError, match="can't run 1 of 96x64 pixels: Guard failed"):
        check_agreement("model.pt2", failing, model)
    with pytest.raises(InputError, match=r"gives logits \(1, 3, 64, 48\)"):
        check_agreement("model.pt2", lambda p: right(p[:, :, ::2], model), model)
    assert "equal except at ties" in check_agreement("x", lambda p: right(p, model), model)


def test_what_is_there_is_replaced_only_on_request(run, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"holds README.md already.*--overwrite"):
        export.main(arguments(run, "torch", out=out))
    (out / "model.onnx").write_text("of another network")
    with pytest.raises(InputError, match=r"holds model.onnx of another export"):
        export.main([*arguments(run, "torch", out=out), "--overwrite"])
    assert (out / "README.md").read_text() == "mine"


def test_bad_input(run, tmp_path, monkeypatch) -> None:
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    no_checkpoint = [
        "--ckpt",
        str(run / "data/classes.yaml"),
        *arguments(run, "torch", out=out)[2:],
    ]
    with pytest.raises(InputError, match="classes.yaml"):
        export.main(no_checkpoint)
    for wrong in (["--int8", "--calibration", str(empty)], ["--calibration", str(empty)]):
        with pytest.raises(SystemExit):
            export.main([*arguments(run, "torch", out=out), *wrong])
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        InputError, match=r"onnx needs a package .*: pip install onnx onnxscript onnxruntime"
    ):
        export.main(arguments(run, "onnx", out=out))
    monkeypatch.setattr(export, "require_packages", lambda file_format: None)
    with pytest.raises(InputError, match="no images .* for --calibration"):
        export.main(arguments(run, "onnx", out=out, int8=empty))
    with pytest.raises(InputError, match="no folder at .*none"):
        export.main(arguments(run, "onnx", out=out, int8=tmp_path / "none"))
    with pytest.raises(InputError, match="no scores at"):
        export.main([*arguments(run, "torch", out=out), "--scored", str(tmp_path / "none.json")])
    assert not out.exists()
    require_packages("torch")


def test_the_network_is_left_as_it_was(tmp_path) -> None:
    make_run(tmp_path, norm="group")
    model = network(tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    images = random_images((1, 40, 48), seed=1)
    network_input = normalize(torch.from_numpy(images).permute(0, 3, 1, 2), "imagenet")
    exported = ExportedNetwork(model)
    wanted = predict_labels(model, network_input, (40, 48))
    assert torch.equal(exported(torch.from_numpy(images))[1], wanted)
    assert not any("Standardized" in type(module).__name__ for module in exported.modules())
    assert kinds == [type(module) for module in model.modules()]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"aspp": "v2", "classifier": "conv", "backbone": "resnet18_v1c_quarter"},
        {"norm": "group", "output_stride": 16},
        {"channels_last": True, "output_stride": 4},
        {"backbone": "resnet50_caffe_c4"},
    ],
    ids=str,
)
def test_every_kind_of_network_is_exported(tmp_path, changes) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    make_run(tmp_path, **changes)
    export.main(arguments(tmp_path, "onnx", "torch", int8=tmp_path / "data/images/train"))
    assert len(list((tmp_path / "out").iterdir())) == 7


@pytest.mark.slow
def test_official_weights_are_exported(tmp_path) -> None:
    """Their network: V1c stem, ASPP V2 and text embeddings; here with a narrow ResNet-18."""
    pytest.importorskip("onnxscript")
    from models.deeplabv3 import ASPPV2, DeepLabV3, TextClassifier
    from models.resnet import ResNet

    backbone = ResNet(18, width=16, stem="v1c")
    head = ASPPV2(backbone.out_channels, 16, (6, 12, 18, 24), dropout=0.0)
    model = DeepLabV3(backbone, head, TextClassifier(torch.randn(19, 16))).eval()
    for writer, runner in ((write_onnx, onnx_runner), (write_torch, torch_runner)):
        writer(model, tmp_path / "file", {"class_names": "[]"})
        assert "agrees" in check_agreement("file", runner(tmp_path / "file"), model)
