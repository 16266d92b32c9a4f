"""Dense CRF: against the authors' cases, against a loop over pixels, in blocks, bad input."""

import sys

import numpy as np
import pytest
import torch
from conftest import load_golden
from torch import Tensor
from weak_golden import Golden, cases

from models import dense_crf
from models.dense_crf import (
    CLIP_ES,
    IRN_LABELS,
    Kernel,
    label_unary,
    mean_field,
    permutohedral,
    probability_unary,
    resized_kernels,
)
from utils.safe.errors import InputError

FILE = "clipes_crf.npz"


def planes(image: Tensor) -> Tensor:
    """(h,w,3) -> (3,h,w)."""
    return image.permute(2, 0, 1)


def clip_es_image(image: Tensor) -> Tensor:
    """What CLIP-ES's release gives its CRF: BGR minus a mean, truncated, modulo 256 (1.9)."""
    shifted = image.flip(-1).double() - torch.tensor([104.008, 116.669, 122.675]).double()
    return shifted.trunc().long().remainder(256).byte()


def share(different: Tensor) -> float:
    return different.float().mean().item()


@pytest.mark.parametrize("case", cases(FILE, "cams"))
def test_golden_crf_of_clip_es(case: str) -> None:
    golden = Golden(FILE, case)
    image, cams, prob, wrapped = (golden[k] for k in ("image", "cams", "prob", "crf_image"))
    assert torch.equal(torch.cat([1 - cams.amax(0, keepdim=True), cams]), prob)
    assert torch.equal(clip_es_image(image), wrapped)
    unary = probability_unary(prob)  # float16, as released
    found = mean_field(unary.double(), planes(wrapped), CLIP_ES)
    golden.near("q_exact", found)

    approximate = golden["q_densecrf"]
    ids = torch.cat([torch.zeros(1), golden["keys"] + 1]).long()
    label = ids[approximate.argmax(0)].masked_fill(approximate.amax(0) < 0.95, 255)
    assert torch.equal(label.byte(), golden["label_densecrf"])
    assert share(found.argmax(0) != approximate.argmax(0)) <= 0.02
    assert golden.unread == set()


@pytest.mark.parametrize("case", cases(FILE, "n_labels"))
def test_golden_crf_of_label_maps(case: str) -> None:
    golden = Golden(FILE, case)
    unary = label_unary(golden["label"], golden["n_labels"].item())
    found = mean_field(unary.double(), planes(golden["image"]), IRN_LABELS)
    golden.near("q_exact", found)
    assert torch.equal(found.argmax(0).byte(), golden["pred_exact"])
    assert share(found.argmax(0) != golden["pred_densecrf"]) <= 0.02
    assert golden.unread == set()


def test_golden_every_case_is_of_one_of_the_two_kinds() -> None:
    found = {key.split("/")[0] for key in load_golden(f"weak/{FILE}").files}
    assert found == {*cases(FILE, "cams"), *cases(FILE, "n_labels")}


def example(size: tuple[int, int] = (5, 7), count: int = 3) -> tuple[Tensor, Tensor]:
    """Unaries in float64 and an image whose left half is darker."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 60, (3, *size))
    image[..., size[1] // 2 :] += 90
    return torch.from_numpy(rng.normal(size=(count, *size))), torch.from_numpy(image).byte()


KERNELS = (Kernel(3, 1), Kernel(4, (2, 5), 13))


def test_mean_field_is_that_of_a_loop_over_pixels() -> None:
    unary, image = example()
    places = [*np.ndindex(5, 7)]
    found = torch.softmax(-unary, 0).numpy()
    kernels = []
    for kernel in KERNELS:
        stds = np.broadcast_to(kernel.position, 2)
        k = np.zeros((35, 35))
        for i, p in enumerate(places):
            for j, q in enumerate(places):
                square = sum(((a - b) / s) ** 2 for a, b, s in zip(p, q, stds, strict=True))
                if kernel.colour is not None:
                    other = image[:, *p].double() - image[:, *q].double()
                    square += ((other / kernel.colour) ** 2).sum().item()
                k[i, j] = np.exp(-square / 2)
        norm = k.sum(1)
        kernels.append(kernel.weight * k / np.sqrt(norm[:, None] * norm[None]))
    for _ in range(4):
        flat = found.reshape(3, 35)
        energy = unary.numpy().reshape(3, 35) - sum(flat @ k for k in kernels)
        found = np.exp(-energy) / np.exp(-energy).sum(0)
    torch.testing.assert_close(
        mean_field(unary, image, KERNELS, 4), torch.from_numpy(found).reshape(3, 5, 7)
    )


def test_blocks_that_are_made_again_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    unary, image = example()
    whole = mean_field(unary, image, KERNELS)
    monkeypatch.setattr(dense_crf, "_BLOCK", 4 * 35 * 3)  # 3 of 35 rows
    torch.testing.assert_close(mean_field(unary, image, KERNELS), whole)
    monkeypatch.setattr(dense_crf, "_STORED", 0)
    torch.testing.assert_close(mean_field(unary, image, KERNELS), whole)
    single = mean_field(unary.float(), image, KERNELS)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, whole.float(), rtol=0, atol=1e-3)


def test_labels_follow_the_colours() -> None:
    """A label that is wrong in a few pixels of a half is corrected; edges stay where they are."""
    _, image = example((8, 12))
    truth = (torch.arange(12) >= 6).long().expand(8, 12)
    noisy = truth.clone()
    noisy[2, 3], noisy[5, 9], noisy[0, 0] = 1, 0, 1
    found = mean_field(label_unary(noisy, 2), image, (Kernel(3, 3), Kernel(10, 5, 13)))
    assert torch.equal(found.argmax(0), truth)
    torch.testing.assert_close(found.sum(0), torch.ones(8, 12))


def test_unaries() -> None:
    labels = torch.tensor([[0, 2, 255]])
    expected = -torch.tensor([[[0.8, 0.1, 0.1]], [[0.1, 0.1, 0.1]], [[0.1, 0.8, 0.1]]]).log()
    torch.testing.assert_close(label_unary(labels, 3, 0.8), expected)
    found = probability_unary(torch.tensor([0.0, 0.5, 1.0, 1.5]))
    torch.testing.assert_close(found, -torch.tensor([1e-5, 0.5, 1, 1]).log())


def test_kernels_of_a_resized_image() -> None:
    one, other = resized_kernels((Kernel(3, 8), Kernel(10, (80, 40), 13)), 0.125)
    assert (one.position, other.position) == ((1, 1), (10, 5))
    assert (one.weight, other.weight, one.colour, other.colour) == (3, 10, None, 13)


def test_other_sizes_are_refused() -> None:
    unary, image = example()
    with pytest.raises(InputError, match="the unaries are 5x7, the image is 5x6"):
        mean_field(unary, image[..., :6], KERNELS)


def test_without_the_package_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(InputError, match="pip install pydensecrf2"):
        permutohedral(*example(), KERNELS)


def test_the_approximate_filter_is_close() -> None:
    pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")
    unary, image = example((12, 15))
    kernels = (Kernel(3, 3), Kernel(10, 50, 5))
    exact, found = mean_field(unary, image, kernels), permutohedral(unary, image, kernels)
    assert found.shape == exact.shape and share(exact.argmax(0) != found.argmax(0)) <= 0.05
