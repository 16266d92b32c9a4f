"""MainNet and SupportNet: the losses by hand, training and masks as a user makes them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import test_kill
import tiny
import torch
import yaml
from PIL import Image
from test_kill import assert_same_files, assert_same_run

import eval as evaluation
import train_warmup
from baselines import common, support_net
from baselines.support_net import main
from datasets.labels import IGNORE_INDEX
from models.cam import CAMNetwork, classification_loss, label_cams, multi_scale_cams
from models.multiscale_attention import attention_loss, attention_targets
from models.regional_contrast import Prototypes, contrast_loss, region_masks, region_vectors
from models.resnet import named_resnet
from models.support_net import Guard, present_cams, region_shares, update_support
from utils.checkpoint import load_checkpoint
from utils.config import load_config
from utils.safe.errors import InputError, InputWarning

scripts = test_kill.scripts
SIZE = (32, 48)
COLORS = np.array([[20, 20, 20], [220, 40, 40], [40, 220, 40], [40, 40, 220]])


def make_data(folder: Path, names: list[str], images: dict[str, list[int]]) -> Path:
    """Images whose left half shows the last of their classes and whose rest shows the others."""
    rng = np.random.default_rng(0)
    for name, ids in images.items():
        truth = np.repeat(np.array(ids)[np.arange(SIZE[1]) * len(ids) // SIZE[1]][None], SIZE[0], 0)
        image = np.clip(COLORS[truth] + rng.integers(-20, 21, (*SIZE, 3)), 0, 255)
        split = "val" if name.startswith("v") else "train"
        tiny.save(folder / f"data/images/{split}/{name}.png", image.astype(np.uint8))
        tiny.save(folder / f"data/masks/{split}/{name}.png", truth.astype(np.uint8))
    (folder / "data/classes.yaml").write_text(yaml.safe_dump({"classes": names}))
    (folder / "data/labels.json").write_text(json.dumps(images))
    values = load_config("configs/tiny_cpu.yaml").to_dict() | {
        "data_root": str(folder / "data"),
        "class_file": str(folder / "data/classes.yaml"),
        "image_labels": str(folder / "data/labels.json"),
        "image_size": list(SIZE),
        "crop_size": list(SIZE),
        "patch_size": [8, 8],
        "carb": False,
        "steps": 12,
        "log_every": 3,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.fixture(scope="module")
def driving(tmp_path_factory) -> Path:
    """Three classes without a background; two training images of each pair of them."""
    images = {"t0": [0, 1], "t1": [0, 1], "t2": [1, 2], "t3": [1, 2], "t4": [0, 2], "t5": [0, 2]}
    folder = tmp_path_factory.mktemp("driving")
    return make_data(folder, ["road", "car", "sky"], images | {"v0": [0, 2], "v1": [1]})


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> Path:
    """The background and three things; an image shows the background alone."""
    images = {"t0": [0, 1], "t1": [0, 2], "t2": [0, 3], "t3": [0, 1, 2], "t4": [0, 3], "t5": [0]}
    folder = tmp_path_factory.mktemp("things")
    return make_data(folder, ["Background", "cat", "dog", "cup"], images | {"v0": [0, 2]})


def run(folder: Path, out: Path, *more: str) -> None:
    config = ["--config", str(folder / "config.yaml"), "--device", "cpu"]
    main([*config, "--run-dir", str(out / "run"), "--out", str(out / "masks"), *more])


@pytest.fixture(scope="module")
def trained(things, tmp_path_factory) -> Path:
    """The folders run and masks of the things, with all options, and checkpoints."""
    out = tmp_path_factory.mktemp("trained")
    run(things, out, "--score", "--save-cams", "--keep-checkpoints")
    return out


# ---- equations, against numpy


def bilinear(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(...,h,w) at `size`, corners not aligned, from the definition."""
    for axis, length in ((-2, size[0]), (-1, size[1])):
        have = maps.shape[axis]
        place = np.clip((np.arange(length) + 0.5) * have / length - 0.5, 0, None)
        low = np.minimum(np.floor(place).astype(int), have - 1)
        high = np.minimum(low + 1, have - 1)
        share = (place - low).reshape(-1, *[1] * (-axis - 1))
        maps = np.take(maps, low, axis) * (1 - share) + np.take(maps, high, axis) * share
    return maps


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(np.linalg.norm(vector), 1e-12)


def by_hand(batch: dict, background: bool) -> dict[str, float]:
    """The three losses of one batch, pixel by pixel, from the formulas."""
    main_cams, features = batch["main"], batch["features"]
    labels, valid = batch["labels"], batch["valid"]
    B, C = labels.shape
    h, w = features.shape[-2:]
    logits = main_cams[0].mean((2, 3))
    cls = np.mean(np.log1p(np.exp(logits)) - labels * logits)

    def shown(maps, images):
        maps = bilinear(np.maximum(maps, 0), (h, w))
        return maps * labels[images, :, None, None] * valid[images, None]

    def regions(maps):
        found = np.full((B, h, w), 255)
        for b in range(B):
            maximum = maps[b].max((1, 2))
            for y in range(h):
                for x in range(w):
                    values = maps[b, :, y, x] / (maximum + 1e-5)
                    c = int(values.argmax())
                    if valid[b, y, x] and labels[b].any():
                        found[b, y, x] = c if values[c] >= 0.3 else (C if background else 255)
        return found

    everyone = np.arange(B)
    support = [shown(maps, everyone) for maps in batch["support"]]
    region, at_1 = regions(sum(support)), regions(support[0])
    prototypes: list[list] = [[] for _ in range(C + background)]
    for b in range(B):
        for c, vectors in enumerate(prototypes):
            inside = np.argwhere(at_1[b] == c)
            if len(inside):
                total = sum(unit(batch["support_features"][b, :, y, x]) for y, x in inside)
                vectors.append(unit(total))
    means = [unit(np.mean(vectors[-5:], 0)) if vectors else None for vectors in prototypes]
    terms = []
    for b, y, x in np.ndindex(B, h, w):
        if region[b, y, x] != 255 and means[region[b, y, x]] is not None:
            pixel = unit(features[b, :, y, x])
            scores = {c: 2 * pixel @ mean for c, mean in enumerate(means) if mean is not None}
            total = sum(np.exp(score) for score in scores.values())
            terms.append(np.log(total) - scores[region[b, y, x]])
    half = np.arange((B + 1) // 2)
    mam = 0.0
    for maps in main_cams:
        own = shown(maps[half], half)
        target = np.zeros_like(own)
        for b in half:
            for c in range(C):
                for other in support:
                    u, v = own[b, c].ravel(), other[b, c].ravel()
                    target[b, c] += (2 - unit(u) @ unit(v)) * other[b, c] / 4
        mam += np.abs(own - target).mean()
    return {"cls": cls, "rcm": np.mean(terms) if terms else 0.0, "mam": mam}


@pytest.mark.parametrize("background", [True, False])
def test_the_losses_of_a_batch_equal_those_by_hand(background, monkeypatch):
    rng = np.random.default_rng(3)
    grids = {1.0: (4, 6), 0.5: (2, 3), 1.5: (6, 9), 2.0: (8, 12)}
    batch = {
        "main": [rng.normal(0, 1, (3, 4, *grids[s])) for s in support_net.MAIN_SCALES],
        "support": [rng.normal(0, 1, (3, 4, *grids[s])) for s in support_net.SUPPORT_SCALES],
        "features": rng.normal(0, 1, (3, 6, 4, 6)),
        "support_features": rng.normal(0, 1, (3, 6, 4, 6)),
        "labels": np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]]),
        "valid": rng.random((3, 4, 6)) < 0.8,
    }
    if background:  # a map that is zero: no division by zero, and its cosine is 0
        batch["support"][1][0, 0] = -1
    expected = by_hand(batch, background)
    as_tensor = lambda a: torch.from_numpy(np.asarray(a, np.float32))  # noqa: E731
    labels, valid = as_tensor(batch["labels"]), torch.from_numpy(batch["valid"])
    main_cams = [as_tensor(maps).requires_grad_() for maps in batch["main"]]
    features = as_tensor(batch["features"]).requires_grad_()
    of_support = [present_cams(as_tensor(x), labels, valid) for x in batch["support"]]
    rest = 4 if background else IGNORE_INDEX
    prototypes = Prototypes(4 + background, 6, torch.device("cpu"))
    at_1 = region_masks(of_support[0], labels, valid, rest)
    prototypes.add(*region_vectors(as_tensor(batch["support_features"]), at_1, 4 + background))
    regions = region_masks(sum(of_support), labels, valid, rest)
    rcm = contrast_loss(features, *prototypes.vectors(), regions)
    maps = [present_cams(x[:2], labels[:2], valid[:2]) for x in main_cams]
    targets, weights = attention_targets(maps, [x[:2] for x in of_support])
    losses = {"cls": classification_loss(main_cams[0], labels), "rcm": rcm}
    losses["mam"] = attention_loss(maps, targets)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, abs=1e-5), name
        assert value > 0.1
    assert weights.shape == (3, 4, 2, 4) and weights.min() > 1 - 1e-6 and weights.max() <= 2
    assert not any(target.requires_grad for target in targets)
    sum(losses.values()).backward()
    assert all(x.grad.isfinite().all() for x in (features, *main_cams))
    shares = region_shares(regions, 4 + background, int(background))
    assert len(shares["class_share"]) == 4 + background
    assert shares["class_share"].sum() + shares["no_region"] == pytest.approx(1)
    assert shares["no_region"] == pytest.approx((regions == IGNORE_INDEX).float().mean())
    if background:
        assert shares["class_share"][0] == pytest.approx((regions == 4).float().mean())


def test_without_a_region_or_a_prototype_the_contrast_is_zero(monkeypatch):
    features = torch.randn(2, 6, 3, 4, requires_grad=True)
    prototypes = Prototypes(3, 6, torch.device("cpu"))
    for regions in (torch.full((2, 3, 4), IGNORE_INDEX), torch.zeros(2, 3, 4, dtype=torch.long)):
        loss = contrast_loss(features, *prototypes.vectors(), regions)
        loss.backward()
        assert loss == 0 and (features.grad == 0).all()
    zero = torch.zeros(1, 2, 3, 4)
    labels, valid = torch.ones(1, 2), torch.ones(1, 3, 4, dtype=torch.bool)
    assert (region_masks(zero, labels, valid, 2) == 2).all(), "a zero map is the rest"


def test_a_prototype_is_the_mean_of_the_last_five_vectors(monkeypatch):
    prototypes = Prototypes(2, 2, torch.device("cpu"))
    angles = torch.arange(7) / 4
    for angle in angles:
        vector = torch.stack([angle.cos(), angle.sin()]).expand(1, 2, 2)
        prototypes.add(vector, torch.tensor([[True, False]]))
    vectors, known = prototypes.vectors()
    kept = angles[2:]
    mean = torch.stack([kept.cos().mean(), kept.sin().mean()])
    assert torch.allclose(vectors[0], mean / mean.norm())
    assert known.tolist() == [True, False] and (vectors[1] == 0).all()
    copy = Prototypes(2, 2, torch.device("cpu"))
    copy.load_state_dict(prototypes.state_dict())
    assert torch.equal(copy.vectors()[0], vectors)
    with pytest.raises(InputError, match="prototypes of other regions"):
        Prototypes(3, 2, torch.device("cpu")).load_state_dict(prototypes.state_dict())


def test_the_support_follows_by_hand():
    """After three steps: M^3 s + (1 - M) (M^2 a + M b + c)."""
    main_net, support = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.constant_(support.weight, 4.0)
    for value in (1.0, 2.0, -3.0):
        torch.nn.init.constant_(main_net.weight, value)
        update_support(support, main_net)
    M = 0.996
    expected = M**3 * 4 + (1 - M) * (M**2 * 1 + M * 2 - 3)
    assert support.weight.item() == pytest.approx(expected, rel=1e-6)


def test_maps_that_grow_stop_the_run():
    guard = Guard()
    for value in (0.0, 0.1, 9.9):
        guard.check(value, 5)
    other = Guard()
    other.load_state_dict(guard.state_dict())
    for one in (guard, other):
        with pytest.raises(InputError, match=r"cam_mean is 11 at step 7.*lower lr"):
            one.check(11.0, 7)


# ---- network and maps


def test_batch_norms_stay_as_they_are():
    network = CAMNetwork(named_resnet("resnet18_eighth", 8), 3, 16).train()
    before = {k: v.clone() for k, v in network.state_dict().items() if "bn" in k}
    outputs = network(torch.randn(2, 3, 32, 48), torch.randn(1, 3, 16, 24))
    assert [x.shape for pair in outputs for x in pair] == [
        *((2, 16, 4, 6), (2, 3, 4, 6)),
        *((1, 16, 2, 3), (1, 3, 2, 3)),
    ]
    sum(maps.sum() for _, maps in outputs).backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == ("bn" in name or "downsample.1" in name), name
    assert all(torch.equal(network.state_dict()[k], v) for k, v in before.items())


def test_maps_are_summed_over_scales_and_mirror_images():
    network = CAMNetwork(named_resnet("resnet18_eighth", 8), 3, 16).eval()
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        total = np.zeros((1, 3, 40, 50))
        for height, width in ((32, 48), (16, 24)):
            view = torch.from_numpy(bilinear(image.numpy(), (height, width)).astype(np.float32))
            for flip in (False, True):
                maps = network(view.flip(-1) if flip else view)[0][1].relu()
                total += bilinear((maps.flip(-1) if flip else maps).numpy(), (40, 50))
        found = multi_scale_cams(network, image, (40, 50), (1.0, 0.5))
    assert np.allclose(found.numpy(), total, atol=1e-4 * total.max())


def test_labels_with_and_without_a_background():
    cams = torch.tensor([[[0.0, 0.2, 0.9, 0.0]], [[0.0, 0.24, 0.3, 0.0]], [[0.0, 0.0, 1.0, 0.0]]])
    present = torch.tensor([1.0, 1.0, 0.0])
    assert label_cams(cams, present, 0.25).tolist() == [[0, 0, 1, 0]]
    assert label_cams(cams, present, None).tolist() == [[0, 1, 0, 0]]
    assert label_cams(cams, torch.tensor([0.0, 1.0, 1.0]), None).tolist() == [[1, 1, 2, 1]]
    assert label_cams(cams, torch.zeros(3), None).unique().tolist() == [IGNORE_INDEX]
    assert label_cams(cams, torch.zeros(3), 0.25).unique().tolist() == [0]


# ---- as a user runs it


def test_a_run_writes_all_losses_and_masks(trained, things):
    lines = tiny.read_metrics(trained / "run")
    assert [line["step"] for line in lines][-1] == 12
    first, last = lines[0], lines[-1]
    assert first["loss_rcm"] == first["loss_mam"] == 0 < last["loss_rcm"]
    assert last["loss_mam"] > 0 and 1 <= last["mam_weight"] <= 2 and last["cam_mean"] > 0
    assert sum(last["class_share"]) + last["no_region"] == pytest.approx(1)
    config = load_config(trained / "run/config.yaml")
    assert (config.momentum, config.classifier) == (0, "conv")
    meta = json.loads((trained / "masks/meta.json").read_text())
    assert meta["made_from"]["method"] == "support_net"
    for i in range(6):
        mask = np.asarray(Image.open(trained / f"masks/t{i}.png"))
        ids = json.loads((things / "data/labels.json").read_text())[f"t{i}"]
        assert mask.shape == SIZE and {*np.unique(mask)} <= {*ids, 0}
        with np.load(trained / f"masks/cams/t{i}.npz", allow_pickle=False) as file:
            assert file["classes"].tolist() == ids[1:]
            assert file["cams"].shape == (len(ids) - 1, *SIZE)
            assert file["cams"].dtype == np.float16 and file["cams"].min(initial=0) >= 0
            assert file["cams"].max(initial=0) <= 1


def test_scores_have_the_curve_over_thresholds(trained, things):
    scores = json.loads((trained / "masks/score.json").read_text())
    curve = {row["threshold"]: row for row in scores["thresholds"]}
    assert len(curve) == 12 and min(curve) == 0.05 and max(curve) == 0.6
    for key in ("miou", "mean_precision", "mean_accuracy"):
        assert curve[0.25][key] == pytest.approx(scores[key])
    rows = [c["precision"] for c in scores["classes"].values() if c["precision"] is not None]
    assert scores["mean_precision"] == pytest.approx(np.mean(rows))


def test_eval_and_training_read_the_masks(trained, things, tmp_path, capsys):
    config = ["--config", str(things / "config.yaml"), "--device", "cpu"]
    masks = str(trained / "masks")
    evaluation.main([*config, "--masks", masks, "--split", "train", "--out", str(tmp_path / "s")])
    scored = json.loads((tmp_path / "s/score.json").read_text())
    own = json.loads((trained / "masks/score.json").read_text())
    assert scored["confusion"] == own["confusion"] and "thresholds" not in scored
    copy = tmp_path / "copy"
    shutil.copytree(masks, copy)
    evaluation.main([*config, "--masks", str(copy), "--split", "train"])
    again = json.loads((copy / "score.json").read_text())
    assert again["thresholds"] == own["thresholds"], "the curve of the method is kept"
    second = ["views=base", "carb=false", "classifier=conv", "steps=2", f"pseudo_masks={masks}"]
    train_warmup.main([*config, "--run-dir", str(tmp_path / "run"), "--set", *second])
    assert load_checkpoint(tmp_path / "run/last.pt")["step"] == 2
    with pytest.raises(InputError, match=r"no segmentation network.*eval\.py --masks"):
        evaluation.main(["--ckpt", str(trained / "run/last.pt"), "--device", "cpu"])
    with pytest.raises(InputError, match=r"split 'train'.*another folder: baselines.support_net"):
        evaluation.main([*config, "--masks", masks, "--split", "val", "--out", str(tmp_path)])


def test_the_same_command_skips_what_is_done(trained, things, tmp_path, capsys):
    out = tmp_path / "again"
    shutil.copytree(trained, out)
    (out / "masks/t3.png").unlink()
    (out / "masks/cams/t1.npz").unlink()
    run(things, out, "--score", "--save-cams", "--keep-checkpoints")
    shown = capsys.readouterr().out
    assert "step 12, is finished" in shown and "6 masks, 2 of them new" in shown
    assert "do not choose the best value above" in " ".join(shown.split())
    assert_same_files(trained / "masks", out / "masks")


@pytest.mark.parametrize("step", [4, 8, 10])
def test_a_resumed_run_is_the_same_bit_for_bit(trained, things, tmp_path, step):
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", "inputs.json", "lock", "metrics.jsonl", "command.txt", "git.txt"):
        shutil.copy(trained / "run" / name, tmp_path / "run" / name)
    for path in (trained / "run").glob("step_*.pt"):
        if int(path.stem[5:]) <= step:
            shutil.copy(path, tmp_path / "run" / path.name)
    shutil.copy(trained / f"run/step_{step:06d}.pt", tmp_path / "run/last.pt")
    run(things, tmp_path, "--save-cams", "--score", "--keep-checkpoints")
    assert_same_run(trained / "run", tmp_path / "run")
    assert_same_files(trained / "masks", tmp_path / "masks")


def test_another_network_refuses_the_old_masks(trained, things, tmp_path):
    shutil.copytree(trained / "masks", tmp_path / "masks")
    with pytest.raises(InputError, match=r"masks made with other .*network_sha256"):
        run(things, tmp_path, "--set", "seed=1")
    run(things, tmp_path, "--set", "seed=1", "--overwrite")
    assert not list((tmp_path / "masks/cams").glob("*")), "maps of the old network are gone"


def test_without_both_losses_it_is_a_plain_cam(driving, tmp_path):
    run(driving, tmp_path, "--without", "rcm", "mam", "--split", "val", "--score")
    assert all(line["loss"] == line["loss_cls"] for line in tiny.read_metrics(tmp_path / "run"))
    checkpoint = load_checkpoint(tmp_path / "run/last.pt")
    assert checkpoint["stage"] == "support_net"
    scores = json.loads((tmp_path / "masks/score.json").read_text())
    assert scores["labelled_pixels"] == 1 and "thresholds" not in scores
    for name, ids in (("v0", {0, 2}), ("v1", {1})):
        assert {*np.unique(Image.open(tmp_path / f"masks/{name}.png"))} <= ids
    message = r"other options \(without: \['mam', 'rcm'\] -> \['rcm'\]\)"
    with pytest.raises(InputError, match=message):
        run(driving, tmp_path, "--without", "rcm", "--split", "val")


def test_each_loss_works_alone_where_there_is_no_background(driving, tmp_path):
    for without, key in (("rcm", "loss_mam"), ("mam", "loss_rcm")):
        run(driving, tmp_path / without, "--without", without)
        last = tiny.read_metrics(tmp_path / without / "run")[-1]
        assert last[key] > 0 == last[f"loss_{without}"]


def test_no_ground_truth_is_read(trained, things, tmp_path):
    spoilt = make_copy(things, tmp_path / "spoilt")
    for path in (spoilt / "data/masks/train").iterdir():
        path.write_bytes(b"spoilt")
    run(spoilt, tmp_path, "--save-cams", "--set", f"class_file={things / 'data/classes.yaml'}")
    one, other = (load_checkpoint(folder / "run/last.pt") for folder in (trained, tmp_path))
    for part in ("model", "support", "prototypes", "guard"):
        assert test_kill.same_value(one[part], other[part])
    for name in ("t0.png", "cams/t3.npz"):
        masks = trained / "masks", tmp_path / "masks"
        assert (masks[0] / name).read_bytes() == (masks[1] / name).read_bytes()


@pytest.mark.slow
def test_two_processes(scripts, things, tmp_path):
    arguments = ["baselines/support_net.py", "--config", things / "config.yaml", "--device", "cpu"]
    keep = ["--keep-checkpoints", "--save-cams", "--score"]
    whole = [*arguments, "--run-dir", tmp_path / "a/run", "--out", tmp_path / "a/masks", *keep]
    test_kill.finish(scripts, whole, 2)
    checkpoint = load_checkpoint(tmp_path / "a/run/last.pt")
    assert len(checkpoint["prototypes"]) == 2, "each process has its own queues"
    assert not test_kill.same_value(*checkpoint["prototypes"])
    assert len(list((tmp_path / "a/masks").glob("t*.png"))) == 6
    shutil.copytree(tmp_path / "a/run", tmp_path / "b/run")
    for name in ("step_000012.pt", "previous.pt"):
        (tmp_path / "b/run" / name).unlink()
    (tmp_path / "b/run/step_000010.pt").replace(tmp_path / "b/run/last.pt")
    shutil.copy(tmp_path / "b/run/last.pt", tmp_path / "b/run/step_000010.pt")
    again = [*arguments, "--run-dir", tmp_path / "b/run", "--out", tmp_path / "b/masks", *keep]
    test_kill.finish(scripts, again, 2)
    shutil.copy(tmp_path / "a/run/previous.pt", tmp_path / "b/run/previous.pt")
    assert_same_run(tmp_path / "a/run", tmp_path / "b/run")
    assert_same_files(tmp_path / "a/masks", tmp_path / "b/masks")


# ---- bad input


def make_copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    config = to / "config.yaml"
    config.write_text(config.read_text().replace(str(folder), str(to)))
    return to


def labels(change):
    """Changes the label file of a copy."""

    def do(folder: Path) -> None:
        path = folder / "data/labels.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return do


def names(*classes: str):
    return lambda folder: (folder / "data/classes.yaml").write_text(
        yaml.safe_dump({"classes": [*classes]})
    )


def damage(part: str, value: object):
    """Replaces a part of the checkpoint of a finished run."""

    def do(folder: Path) -> None:
        content = load_checkpoint(folder / "run/last.pt")
        content[part] = value(content[part]) if callable(value) else value
        torch.save(content, folder / "run/last.pt")

    return do


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (
            labels(lambda x: x | {"t0": []}),
            (),
            r"labels\.json \(train\): 1 images have no class.*'t0'",
        ),
        (labels(lambda x: x | {name: [0, 1] for name in x}), (), r"no image has sky"),
        (names("road", "Background", "sky"), (), "'background' must be class 0"),
        (None, ("--set", "crop_size=[16,48]", "output_stride=8"), r"\[16, 48\].*less than 2 cells"),
        (None, ("--set", "steps=2"), "'steps' is 2, too few for three phases"),
        (None, ("--split", "trian"), "no split 'trian'"),
        (None, ("--set", "norm=group"), "norm: group is for networks that start from nothing"),
        (
            lambda f: shutil.rmtree(f / "data/masks"),
            ("--score",),
            "ground truth.*leave out --score",
        ),
        (labels(lambda x: x | {"v0": []}), ("--split", "val"), r"\(val\): 1 images have no class"),
    ],
)
def test_bad_input_ends_the_run_before_training(driving, tmp_path, change, options, told):
    folder = make_copy(driving, tmp_path / "copy")
    if change is not None:
        change(folder)
    with pytest.raises(InputError, match=told):
        run(folder, folder, *options)
    assert not (folder / "run").exists() and not (folder / "masks").exists()


def test_masks_among_the_images_are_refused(driving, tmp_path):
    inside = driving / "data/images/train"
    config = ["--config", str(driving / "config.yaml"), "--device", "cpu"]
    with pytest.raises(InputError, match="holds images"):
        main([*config, "--run-dir", str(tmp_path / "run"), "--out", str(inside)])


def test_classes_of_every_image_are_named(driving, tmp_path):
    folder = make_copy(driving, tmp_path / "copy")
    labels(lambda x: {name: sorted({*ids, 1}) for name, ids in x.items()})(folder)
    with pytest.warns(InputWarning, match="images learns nothing: car$"):
        run(folder, folder, "--set", "steps=4", "--without", "rcm", "mam")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (names("Background", "cat", "dog", "mug"), r"last\.pt was trained.*(mug|cup)"),
        (damage("support", lambda x: dict(list(x.items())[1:])), "another network"),
        (damage("prototypes", lambda x: [dict(list(x[0].items())[1:])]), "other regions"),
    ],
)
def test_a_checkpoint_of_other_classes_or_networks_is_refused(
    things, trained, tmp_path, change, told
):
    folder = make_copy(things, tmp_path / "copy")
    shutil.copytree(trained / "run", folder / "run")
    change(folder)
    with pytest.raises(InputError, match=told):
        run(folder, folder)


def test_the_threshold_of_the_background_is_no_part_of_other_data(driving, things):
    """The one place where the two kinds of data differ in the masks."""
    for folder, threshold in ((things, 0.25), (driving, None)):
        config = load_config(folder / "config.yaml")
        classes = support_net.load_classes(config.class_file)
        split = common.load_split(config, "train", classes)
        masks = common.CamMasks(None, split, classes, 0.25, config, None)
        assert masks.threshold == threshold
