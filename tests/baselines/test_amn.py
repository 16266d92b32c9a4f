"""AMN and IRN's boundaries against the official code, and what the reference cases don't show."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import golden_cases, load_golden
from torch import Tensor, nn

from baselines import amn
from models.amn import (
    LabelHead,
    activations,
    balanced_loss,
    seed_labels,
    smoothed_targets,
    stretched,
)
from models.cam import label_cams
from models.dense_crf import IRN_LABELS, label_unary, mean_field, permutohedral
from models.irn import (
    PAIR_RADIUS,
    affinity_losses,
    centre_labels,
    displacement_losses,
    edge_losses,
    highest_row,
    merged_views,
    pair_affinities,
    pair_offsets,
    two_threshold_labels,
)
from models.random_walk import edge_walk, path_cells, upsampled_walk, walk_labels
from models.training import poly_sgd, poly_step

CAM, IRN, LOSS, NET = (f"weak/amn_{name}.npz" for name in ("cam", "irn", "loss", "net"))
# The walk of the reference files, by float32 squaring, is up to 3.3e-5 from one in float64.
WALK = 1e-4
OTHER = 0.02  # share of the labels by which an exact and an approximate dense CRF may differ


class Golden:
    """A case of a reference file as tensors; notes the keys that were read."""

    def __init__(self, file: str, case: str) -> None:
        self.file, self.case = load_golden(file), case
        self.left = {
            key.removeprefix(f"{case}/") for key in self.file.files if key.startswith(f"{case}/")
        }

    def __contains__(self, key: str) -> bool:
        return f"{self.case}/{key}" in self.file.files

    def __getitem__(self, key: str) -> Tensor:
        self.left.discard(key)
        return torch.from_numpy(self.file[f"{self.case}/{key}"])

    def state(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): self[k] for k in sorted(self.left) if k.startswith(prefix)}

    def near(self, key: str, found: Tensor, atol: float = 1e-5) -> None:
        limits = {"rtol": 0, "atol": atol, "equal_nan": True}
        text = lambda message: f"{self.case}/{key}: {message}"  # noqa: E731
        torch.testing.assert_close(found.detach(), self[key], **limits, msg=text)


def cases(file: str, key: str) -> list[str]:
    """The cases of a file that have a key; "none" without the file."""
    names = golden_cases(file)
    if not names:
        return ["none"]
    stored = {*load_golden(file).files}
    return [name for name in names if f"{name}/{key}" in stored]


# ---- equations, against the official code


class Small(nn.Module):
    """The network of the reference file: one convolution of stride 16, labels, a 1x1 head."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        channels, classes = len(weights["back.weight"]), len(weights["head.weight"])
        self.back = nn.Conv2d(3, channels, 16, 16)
        self.enc = nn.Linear(weights["enc.weight"].shape[1], channels)
        self.head = nn.Conv2d(channels, classes, 1)
        self.load_state_dict(weights)

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        return self.head(self.back(image) * self.enc(labels)[..., None, None])


@pytest.mark.parametrize("case", golden_cases(LOSS) or ["none"])
def test_golden_amn_training(case: str) -> None:
    golden = Golden(LOSS, case)
    trains = "img" in golden
    if trains:
        network = Small(golden.state("sd0/"))
        head = [*network.enc.parameters(), *network.head.parameters()]
        optimizer = amn.build_adam(network.back.parameters(), head)
        images, labels = golden["img"], golden["label_cls"]
    steps = sorted({key[:2] for key in golden.left if key[:2].isdecimal()})
    for index, step in enumerate(steps):
        stored = golden[f"{step}/logits"]
        label = golden[f"{step}/label_full"]
        grid = tuple(stored.shape[-2:])
        found = centre_labels(label, grid)
        assert torch.equal(found, golden[f"{step}/label"])
        if f"{step}/target" in golden:
            golden.near(f"{step}/target", smoothed_targets(found.long(), stored.shape[1]))
        groups = (torch.arange(stored.shape[1]) > 0).long()
        logits = stored.clone().requires_grad_()
        loss = balanced_loss(logits, found.long(), groups, released=True)
        golden.near(f"{step}/loss", loss)
        golden.near(f"{step}/grad", torch.autograd.grad(loss, logits)[0])
        guarded = balanced_loss(logits, found.long(), groups)
        if stored.isfinite().all():  # the release goes on with weights that aren't numbers
            assert guarded.isfinite()
            assert torch.autograd.grad(guarded, logits)[0].isfinite().all()
        if loss.isfinite():
            assert guarded == loss
        if trains:
            count = len(images) // len(steps)
            part = slice(index * count, (index + 1) * count)
            logits = network(images[part], labels[part])
            golden.near(f"{step}/logits", logits, 5e-5)
            optimizer.zero_grad()
            balanced_loss(logits, found.long(), groups, released=True).backward()
            optimizer.step()
    if trains:
        for name, value in network.state_dict().items():
            golden.near(f"sd1/{name}", value)
    assert not golden.left


def test_golden_amn_network() -> None:
    file = load_golden(NET)
    left = {*file.files}

    def take(key: str) -> Tensor:
        left.discard(key)
        return torch.from_numpy(file[key])

    state = {key[3:]: take(key) for key in file.files if key.startswith("sd/")}
    channels, num_labels = state["label_enc.weight"].shape
    head = LabelHead(channels, num_labels, len(state["classifier.1.c0.bias"]))
    head.load_state_dict(state)
    x = take("x").requires_grad_()
    logits = head.eval()(x, take("y"))
    limits = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(logits.detach(), take("logits"), **limits)
    logits.backward(take("grad_logits"))
    torch.testing.assert_close(x.grad, take("grad_x"), **limits)
    for name, parameter in head.named_parameters():
        golden = take(f"grad/{name}")
        torch.testing.assert_close(parameter.grad, golden, rtol=0, atol=1e-4)
    pair = head(take("pair"), take("y")[:1].expand(2, -1))
    torch.testing.assert_close(merged_views(*pair).detach(), take("pair_logits"), **limits)
    # The released dropout stays on at test time; ours obeys eval().
    assert take("dropout_active_after_eval").tolist() == [1, 1]
    assert torch.equal(head(x, take("y")), head(x, take("y")))
    assert not left


@pytest.mark.parametrize("case", golden_cases(CAM) or ["none"])
def test_golden_amn_maps(case: str) -> None:
    golden = Golden(CAM, case)
    size, keys = tuple(golden["size"].tolist()), golden["keys"].long()
    assert keys.tolist() == golden["label"].nonzero().flatten().tolist()
    logits = [golden[f"out{i}"][None] for i in range(len(amn.SCALES))]
    rows = torch.cat([keys.new_zeros(1), keys + 1])
    quarter = tuple((side - 1) // 4 + 1 for side in size)
    for key, at in (("cam", quarter), ("high_res", size)):
        seed = centre_labels(golden["ir_label"], at)
        golden.near(key, stretched(activations(logits, at)[rows], seed != 0))
    maps = golden["high_res"][1:]
    high, low = amn.IRN_THRESHOLDS
    found = [highest_row(maps, threshold) for threshold in (high, low)]
    for key, rows_of in zip(("fg_argmax", "bg_argmax"), found, strict=True):
        assert torch.equal(rows_of.byte(), golden[key])
    labels = two_threshold_labels(*(rows[one] for one in found))
    assert torch.equal(labels.byte(), golden["ir_label2_nocrf"])
    # The label map joins two dense CRFs, each with its own errors: it shows where the first has
    # which class, and where there is none, whether the second has one.
    image, stored = golden["image"].permute(2, 0, 1), golden["ir_label2_densecrf"].long()
    high, low = (
        mean_field(label_unary(one, len(rows)), image, IRN_LABELS).argmax(0) for one in found
    )
    no_class = (stored == 0) | (stored == 255)
    assert (rows[high] != stored.masked_fill(no_class, 0)).float().mean() <= OTHER
    assert (no_class & ((low == 0) != (stored == 0))).float().mean() <= OTHER
    cams = golden["cam"][1:] ** amn.POWER
    golden.near("rw_in", cams)
    walked = edge_walk(cams, golden["edge"][0])
    golden.near("rw", walked[:, None], WALK)
    scores = upsampled_walk(golden["rw"][:, 0], size)
    assert torch.equal(walk_labels(scores, keys), golden["sem_seg"])
    assert not golden.left


@pytest.mark.parametrize("case", golden_cases(CAM) or ["none"])
def test_golden_amn_labels_by_the_crf_of_the_release(case: str) -> None:
    """Order and constants are the release's: with its approximate filter no label differs."""
    pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")
    golden = Golden(CAM, case)
    image, keys = golden["image"].permute(2, 0, 1), golden["keys"].long()
    rows = torch.cat([keys.new_zeros(1), keys + 1])
    unaries = [label_unary(golden[key].long(), len(rows)) for key in ("fg_argmax", "bg_argmax")]
    refined = [permutohedral(one, image, IRN_LABELS).argmax(0) for one in unaries]
    labels = two_threshold_labels(*(rows[one] for one in refined))
    assert torch.equal(labels.byte(), golden["ir_label2_densecrf"])


@pytest.mark.parametrize("case", cases(IRN, "dst"))
def test_golden_irn_affinities(case: str) -> None:
    golden = Golden(IRN, case)
    edge, radius = golden["edge"][0, 0], 1 + golden["dst"].abs().max().item()
    assert golden["size"].tolist() == list(edge.shape)
    offsets = pair_offsets(radius)
    assert offsets == [tuple(one) for one in golden["dst"].tolist()]
    for key in sorted(key for key in golden.left if key.startswith("paths_len")):
        length = int(key.removeprefix("paths_len"))
        paths = [path_cells(one) for one in offsets if len(path_cells(one)) == length]
        stored = [[tuple(cell) for cell in path] for path in golden[key].tolist()]
        assert [{*path} for path in paths] == [{*path} for path in stored], key
    golden.near("affinity", pair_affinities(edge, radius).flatten(1)[None])
    assert not golden.left


@pytest.mark.parametrize("case", cases(IRN, "rw"))
def test_golden_irn_walk_of_amn(case: str) -> None:
    golden = Golden(IRN, case)
    cams, edge = golden["x"], golden["edge"][0]
    golden.near("rw", edge_walk(cams, edge)[:, None], WALK)
    golden.near("rw_exp0", edge_walk(cams, edge, steps=1)[:, None])
    for key in sorted(key for key in golden.left if key.startswith("rw_beta")):
        beta, times = key.removeprefix("rw_beta").split("_exp")
        found = edge_walk(cams, edge, beta=float(beta), steps=2 ** int(times))
        golden.near(key, found[:, None])
    assert not golden.left


@pytest.mark.parametrize("case", cases(IRN, "pos_aff"))
def test_golden_irn_losses(case: str) -> None:
    golden = Golden(IRN, case)
    edge, field = (nn.Parameter(golden[key]) for key in ("edge_logits", "disp"))
    label, radius = golden["label"], PAIR_RADIUS
    affinity = torch.stack([pair_affinities(one[0].sigmoid(), radius) for one in edge])
    losses = affinity_losses(affinity, label, radius, first=1)
    assert all(torch.equal(losses[k], v) for k, v in edge_losses(edge, label, first=1).items())
    foreground, background = displacement_losses(field, label, radius)
    golden.near("pos_aff", losses["loss_pos"])
    golden.near("neg_aff", losses["loss_neg"])
    golden.near("dp_fg", foreground)
    golden.near("dp_bg", background)
    loss = losses["loss"] + (foreground + background) / 2
    gradients = torch.autograd.grad(loss, [edge, field], retain_graph=True)
    golden.near("grad_edge", gradients[0])
    golden.near("grad_disp", gradients[1])
    groups = [{"params": [edge], "lr": amn.EDGE_LR}, {"params": [field], "lr": 1.0}]
    poly_step(loss, poly_sgd(groups, amn.WEIGHT_DECAY, "authors"), 0, 10)
    golden.near("edge_after", edge)
    golden.near("disp_after", field)
    assert not golden.left


def test_golden_every_key_belongs_to_a_case_above() -> None:
    for file, kinds in ((LOSS, ("00/logits",)), (CAM, ("rw_in",)), (IRN, ("dst", "rw", "pos_aff"))):
        found = {key.split("/")[0] for key in load_golden(file).files}
        assert found == {case for kind in kinds for case in cases(file, kind)}


def test_every_class_that_occurs_counts_alike() -> None:
    """Without a background: the mean over classes of the means of their pixels."""
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 3, 5))).float()
    label = torch.full((2, 3, 5), 255)
    label[0, 0], label[0, 1, 0], label[1] = 1, 3, 1
    losses = -(smoothed_targets(label, 4) * logits.log_softmax(1)).sum(1)
    expected = (losses[label == 1].mean() + losses[label == 3].mean()) / 2
    assert torch.isclose(balanced_loss(logits, label, torch.arange(4)), expected)
    nothing = logits.clone().requires_grad_()
    loss = balanced_loss(nothing, torch.full_like(label, 255), torch.arange(4))
    loss.backward()
    assert loss == 0 and (nothing.grad == 0).all()


def test_a_seed_without_a_background_is_high_and_leads() -> None:
    rows = [0.9, 0.29, 0.5, 0.31, 0.1], [0.0, 0.1, 0.46, 0.2, 0.4], [1.0] * 5
    maps = torch.tensor(rows)[:, None]
    found = seed_labels(maps, torch.tensor([1.0, 1.0, 0.0]), None)
    assert found.tolist() == [[0, 255, 255, 0, 1]]
    assert (seed_labels(maps, torch.zeros(3), None) == 255).all()
    alone = seed_labels(maps[:1], torch.ones(1), None)
    assert alone.tolist() == [[0, 255, 0, 0, 255]]


def test_a_seed_with_a_background_has_a_class_nothing_or_neither() -> None:
    maps = torch.tensor([[[0.9, 0.2, 0.04]], [[0.0, 0.1, 0.01]]])
    assert seed_labels(maps, torch.ones(2), amn.SEED_THRESHOLDS).tolist() == [[1, 255, 0]]
    assert seed_labels(maps, torch.ones(2), amn.IRN_THRESHOLDS).tolist() == [[1, 255, 0]]
    assert seed_labels(maps[:, :, 1:2], torch.ones(2), (0.15, 0.05)).tolist() == [[1]]


def test_the_curve_of_scores_moves_the_threshold() -> None:
    maps, sample = torch.tensor([[[0.1, 0.3, 0.9]]]), {"size": (1, 3)}
    for threshold, expected in ((0.2, [0, 1, 1]), (0.5, [0, 0, 1]), (None, [0, 0, 0])):
        masks = SimpleNamespace(rule=label_cams, threshold=threshold)
        assert amn.Labels.labels(masks, sample, maps, torch.ones(1)).tolist() == [expected]


def test_the_pairs_without_a_background_are_one_group() -> None:
    """All equal pairs count alike; with a background those of label 0 are half of the loss."""
    rng = np.random.default_rng(0)
    edge = torch.from_numpy(rng.normal(size=(1, 1, 12, 24))).float()
    label = torch.from_numpy(rng.integers(0, 2, (1, 12, 24)))
    label[0, 0] = 255
    losses = edge_losses(edge, label, first=0)
    affinity = pair_affinities(edge[0, 0].sigmoid(), PAIR_RADIUS)
    r, near, pairs = PAIR_RADIUS - 1, 0.0, 0
    for (dy, dx), plane in zip(pair_offsets(PAIR_RADIUS), affinity, strict=True):
        for y in range(12 - r):
            for x in range(r, 24 - r):
                ends = {label[0, y, x].item(), label[0, y + dy, x + dx].item()}
                if len(ends) == 1 and 255 not in ends:
                    near -= np.log(plane[y, x - r].item() + 1e-5)
                    pairs += 1
    assert pairs > 100 and losses["loss_pos"].item() == pytest.approx(near / pairs, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(
        (losses["loss_pos"] + losses["loss_neg"]).item() / 2
    )
    assert edge_losses(edge, label, first=1)["loss_pos"] != losses["loss_pos"]
