"""AffinityNet and the classifier of baselines/psa.py against psa's code, on every key."""

import pytest
import torch
import torch.nn.functional as F
from conftest import golden_files
from torch import Tensor
from weak_golden import Golden, cases

from baselines.cam import normalized
from baselines.psa import CHECK_THRESHOLD
from datasets.transforms import normalize
from models.affinity import (
    affinities,
    affinity_labels,
    affinity_losses,
    as_planes,
    pair_ends,
    pair_labels,
    pooled,
    summed_views,
    walked_scores,
)
from models.affinity_network import AffinityHead
from models.affinity_set import affinity_sample
from models.cam import label_cams, with_background
from models.random_walk import neighbours
from models.training import poly_sgd, poly_step

CAM, PAIRS, LABEL, SAMPLE = (
    f"psa_{name}.npz" for name in ("multiscale_cam", "pairs", "affinity_label", "train_sample")
)
AFFINITY, LOSS, WALK, OPTIMIZER = (
    f"psa_{name}.npz" for name in ("affinity", "loss", "walk", "optimizer")
)


@pytest.mark.parametrize("case", cases(CAM, "norm_cam"))
def test_golden_psa_cam(case):
    golden = Golden(CAM, case)
    size, label = tuple(golden["size"].tolist()), golden["label"]
    assert golden["img"].shape[:2] == size
    keys = label.nonzero().flatten()
    assert torch.equal(keys, golden["keys"].long())
    outputs = [golden[f"out_{i}"] for i in range(2 * len(golden["scales"]))]
    maps = normalized(summed_views(outputs, size), label)
    golden.near("norm_cam", maps)
    stack = torch.cat([torch.full_like(maps[:1], CHECK_THRESHOLD), maps[keys]])
    found = label_cams(maps, label, CHECK_THRESHOLD)
    golden.same_labels(f"pred_bg{CHECK_THRESHOLD}", found, stack)
    for alpha in golden.names("crf_input_alpha"):
        golden.near(f"crf_input_alpha{alpha}", with_background(maps[keys], int(alpha)))
    assert golden.unread == set()


@pytest.mark.parametrize("case", cases(PAIRS, "from"))
def test_golden_psa_pairs(case):
    golden = Golden(PAIRS, case)
    start, end = pair_ends(tuple(golden["size"].tolist()), golden["radius"].item())
    assert torch.equal(start, golden["from"]) and torch.equal(end, golden["to"])
    assert golden.unread == set()


@pytest.mark.parametrize("case", cases(LABEL, "label"))
def test_golden_psa_pair_labels(case):
    golden = Golden(LABEL, case)
    found = pair_labels(golden["label"], golden["radius"].item())
    for name, pairs in zip(("bg_pos", "fg_pos", "neg"), found, strict=True):
        assert torch.equal(pairs.byte(), golden[name]), name
    assert golden.unread == set()


@pytest.mark.parametrize("case", cases(SAMPLE, "pooled"))
def test_golden_psa_sample(case):
    golden = Golden(SAMPLE, case)
    image, crop = golden["img"].permute(2, 0, 1), golden["crop"].item()
    offsets = golden["offset_y"].item(), golden["offset_x"].item()
    stacks = torch.cat([golden["la"], golden["ha"]])
    flip = bool(golden["flip"].item())
    image, low = affinity_sample(image, stacks, (crop, crop), offsets, flip)
    golden.near("image_out", normalize(image[None], "imagenet")[0])
    golden.near("pooled", low)
    labels = affinity_labels(*low.chunk(2))
    assert torch.equal(labels, golden["label"])
    for name, pairs in zip(("bg_pos", "fg_pos", "neg"), pair_labels(labels), strict=True):
        assert torch.equal(pairs.byte(), golden[name]), name
    assert golden.unread == set()


def dense(planes: Tensor, radius: int = 5) -> Tensor:
    """A (hw,hw) of planes (P,h,w), pair by pair; 1 on the diagonal."""
    height, width = planes.shape[-2:]
    found = torch.eye(height * width)
    for (dy, dx), plane in zip(neighbours(radius), planes, strict=True):
        for y, x in plane.nonzero().tolist():
            i, j = y * width + x, (y + dy) * width + x + dx
            found[i, j] = found[j, i] = plane[y, x]
    return found


@pytest.mark.parametrize("case", cases(AFFINITY, "conv_last"))
def test_golden_psa_affinity(case):
    golden, name = Golden(AFFINITY, case), case.split("/")[0]
    network = Golden(AFFINITY, name)
    weights = network.state_dict()
    groups = [network[f"groups/{one}"].item() for one in network.names("groups/")] or None
    sides = [weights[f"f8_{i}.weight"].shape for i in (3, 4, 5)]
    head = AffinityHead([side[1] for side in sides], [side[0] for side in sides], groups)
    head.load_state_dict(weights)
    conv4 = golden["conv4"].requires_grad_()
    features = head(conv4, golden["conv5"], golden["conv_last"])
    golden.near("feature", features)
    found = affinities(features)
    golden.near("affinity", found)
    (found * golden["upstream"]).sum().backward()
    golden.near("grad_conv4", conv4.grad)
    golden.near("grad_f9", head.f9.weight.grad)
    if "dense" in golden:
        planes = as_planes(found[0].detach(), tuple(features.shape[-2:]))
        golden.near("dense", dense(planes))
    assert golden.unread == set()


def test_golden_psa_affinity_no_key_is_left_out():
    names = cases(AFFINITY, "conv_last")
    networks = {case.split("/")[0] for case in names}
    read = (*names, *(f"{name}/{part}" for name in networks for part in ("sd", "groups")))
    keys = Golden(AFFINITY).file.files
    assert [key for key in keys if not key.startswith(tuple(f"{one}/" for one in read))] == []


@pytest.mark.parametrize("case", cases(LOSS, "affinity"))
def test_golden_psa_loss(case):
    golden = Golden(LOSS, case)
    affinity = golden["affinity"].requires_grad_()
    labels = [golden[name] for name in ("bg_pos", "fg_pos", "neg")]
    for background, prefix in ((True, ""), (False, "adapted_")):
        losses = affinity_losses(affinity, labels, background)
        golden.near(f"{prefix}loss", losses["loss"])
        golden.near(f"{prefix}grad", torch.autograd.grad(losses["loss"], affinity)[0])
    for name in ("background", "class", "negative"):
        key = {"background": "bg_loss", "class": "fg_loss", "negative": "neg_loss"}[name]
        golden.near(key, losses[f"loss_{name}"])
    assert golden.unread == set()


def planes_of(matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """(P,h,w) of a dense A (hw,hw)."""
    height, width = size
    planes = torch.zeros(len(neighbours(5)), *size)
    for plane, (dy, dx) in zip(planes, neighbours(5), strict=True):
        for y in range(height - dy):
            for x in range(max(0, -dx), min(width, width - dx)):
                plane[y, x] = matrix[y * width + x, (y + dy) * width + x + dx]
    return planes


@pytest.mark.parametrize("case", cases(WALK, "walked"))
def test_golden_psa_walk(case):
    golden = Golden(WALK, case)
    size, keys, cam = tuple(golden["size"].tolist()), golden["keys"].long(), golden["cam"]
    alpha, beta, steps = (golden[key].item() for key in ("alpha", "beta", "logt"))
    maps = torch.zeros(len(golden.file[f"{case}/pooled"]) - 1, *size)
    maps[keys] = cam
    low = pooled(with_background(maps, alpha))
    golden.near("pooled", low)
    planes = planes_of(golden["affinity"], tuple(low.shape[-2:]))
    walked, scores = walked_scores(low, planes, size, beta, 2**steps, 5)
    golden.near("walked", walked, 5e-5)
    golden.same_labels("pred", scores.argmax(0), scores)
    best = scores.topk(2, 0).values
    assert torch.allclose((best[0] - best[1]).half(), golden["margin"], atol=2e-3)
    present = F.one_hot(keys, len(maps)).sum(0)
    kept = keys.sort().values + 1
    golden.same_labels("adapted_pred", label_cams(scores[1:], present, None), scores[kept])
    assert golden.unread == set()


@pytest.mark.parametrize("case", cases(OPTIMIZER, "max_step"))
def test_golden_psa_optimizer(case):
    golden = Golden(OPTIMIZER, case)
    lr, decay, steps = (golden[key].item() for key in ("lr", "weight_decay", "max_step"))
    parameters = [torch.nn.Parameter(one) for one in golden["start"]]
    groups = [
        {"params": [p], "lr": lr * factor, "weight_decay": decay * share}
        for p, factor, share in zip(parameters, (1, 2, 10, 20), (1, 0, 1, 0), strict=True)
    ]
    optimizer, rates, values = poly_sgd(groups, decay, "authors"), [], []
    for name in ("momentum", "weight_decay"):
        found = [group[name] for group in optimizer.param_groups]
        golden.near(f"{name}_in_effect", torch.tensor(found))
    for step, gradients in enumerate(golden["grads"]):
        loss = sum((p * g).sum() for p, g in zip(parameters, gradients, strict=True))
        poly_step(loss, optimizer, step, steps)
        rates.append([group["lr"] for group in optimizer.param_groups])
        values.append(torch.stack([p.detach().clone() for p in parameters]))
    golden.near("lrs", torch.tensor(rates))
    golden.near("params", torch.stack(values))
    assert golden.unread == set()


@pytest.mark.parametrize("file", golden_files("weak/psa_*.npz"))
def test_golden_psa_has_a_test_for_each_file(file):
    if "*" in file:
        pytest.skip("no reference cases (set CARB_GOLDENS)")
    here = {CAM, PAIRS, LABEL, SAMPLE, AFFINITY, LOSS, WALK, OPTIMIZER}
    assert file in here | {"psa_resnet38_cls.npz"}  # tests/test_resnet38.py
