"""models/sec.py against the layers of kolesman/SEC, all keys."""

import numpy as np
import pytest
import torch
from conftest import GOLDENS
from torch import Tensor
from weak_golden import Golden, cases

from models.sec import (
    constrain_loss,
    crf_targets,
    expand_loss,
    floored_softmax,
    on_grid,
    seed_loss,
)


def files() -> list[str]:
    """The files of SEC's losses; one that does not exist, which skips, without them."""
    found = [] if GOLDENS is None else sorted(p.name for p in GOLDENS.glob("weak/sec_losses*.npz"))
    return found or ["sec_losses.npz"]


def planes(images: Tensor) -> Tensor:
    """(B,h,w,3) -> (B,3,h,w)."""
    return images.permute(0, 3, 1, 2)


def near(golden: Golden, key: str, found: Tensor, relative: float = 0.0) -> None:
    """Equal within 1e-5 + relative |golden|; finite where the release gives NaN."""
    expected = golden[key]
    assert found.shape == expected.shape, key
    known = ~expected.isnan()
    assert found.isfinite().all(), key
    torch.testing.assert_close(
        found.detach()[known].to(expected.dtype),
        expected[known],
        rtol=relative,
        atol=1e-5,
        msg=lambda text: f"{key}: {text}",
    )


@pytest.mark.parametrize(("file", "case"), [(f, c) for f in files() for c in cases(f, "logits")])
def test_golden_losses(file: str, case: str) -> None:
    golden = Golden(file, case)
    logits = golden["logits"].requires_grad_()
    labels, seeds, log_q = golden["labels"], golden["cues"].float(), golden["crf_log"]
    decays = torch.tensor([0.999, *[0.996] * (labels.shape[1] - 1)])
    p = floored_softmax(logits)
    golden.near("prob", p)
    if "softmax_grad_out" in golden:
        (found,) = torch.autograd.grad(p, logits, golden["softmax_grad_out"], retain_graph=True)
        near(golden, "softmax_grad_in", found, 1e-4)

    leaf = golden["prob"].requires_grad_()
    losses = {
        "seed": seed_loss(leaf, seeds),
        "expand": expand_loss(leaf, labels, decays, background=True),
        "constrain": constrain_loss(leaf, log_q),
    }
    for name, loss in losses.items():
        near(golden, name, loss)
        (found,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        assert found.isfinite().all()
        if f"grad_{name}" in golden:
            near(golden, f"grad_{name}", found, 1e-4)
    whole = seed_loss(p, seeds) + expand_loss(p, labels, decays, True) + constrain_loss(p, log_q)
    near(golden, "grad_logits", torch.autograd.grad(whole, logits)[0], 1e-4)

    image, at_grid = golden["image"], golden["crf_image"]
    found = on_grid(planes(image), logits.shape[-2:])
    assert torch.equal(found.byte(), planes(at_grid.flip(-1)))  # it is BGR
    if "crf_log_exact" in golden:
        exact = crf_targets(logits.double(), planes(image))
        near(golden, "crf_log_exact", exact)
        near(golden, "constrain_exact", constrain_loss(golden["prob"], exact.float()))
        other = exact.argmax(1) != log_q.argmax(1)  # the release's CRF is approximate
        assert other.float().mean() <= max(0.05, 2 / other[0].numel())
    assert golden.unread == set()
    assert np.isnan(golden.array("seed")) == (seeds.sum((1, 2, 3)) == 0).any()
