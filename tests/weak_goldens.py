"""The reference cases of the comparators (`weak/`): read, compared, and no key left out."""

import numpy as np
import torch
from conftest import GOLDENS, load_golden
from torch import Tensor, nn


def weak_cases(file: str, key: str) -> list[str]:
    """Every X for which `file` has "X/<key>", for parametrize; "none" where there is no file."""
    if GOLDENS is None or not (GOLDENS / "weak" / file).is_file():
        return ["none"]
    end = f"/{key}"
    with np.load(GOLDENS / "weak" / file, allow_pickle=False) as content:
        return sorted(name.removesuffix(end) for name in content.files if name.endswith(end))


class WeakGolden:
    """One case of a file: golden["key"] is the tensor of "case/key". Notes what was read."""

    def __init__(self, file: str, case: str) -> None:
        self.file, self.case = load_golden(f"weak/{file}"), case
        self.rest = {key.removeprefix(f"{case}/") for key in self.file.files if self._is_own(key)}

    def _is_own(self, key: str) -> bool:
        return key.startswith(f"{self.case}/")

    def __contains__(self, key: str) -> bool:
        return f"{self.case}/{key}" in self.file.files

    def array(self, key: str) -> np.ndarray:
        self.rest.discard(key)
        return self.file[f"{self.case}/{key}"]

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self.array(key))

    def item(self, key: str) -> int | float:
        return self.array(key).item()

    def size(self, key: str = "size") -> tuple[int, ...]:
        return tuple(self.array(key).tolist())

    def keys(self, start: str) -> list[str]:
        """The case's keys that begin with `start`."""
        own = (key.removeprefix(f"{self.case}/") for key in self.file.files if self._is_own(key))
        return sorted(key for key in own if key.startswith(start))

    def near(self, found: Tensor, key: str, tolerance: float = 1e-5) -> None:
        """Within `tolerance` times the largest absolute value, or 1 where that is smaller."""
        expected = self[key]
        assert found.shape == expected.shape, f"{self.case}/{key}"
        largest = expected.abs().max().item() if expected.numel() else 0.0
        torch.testing.assert_close(
            found.detach(),
            expected,
            rtol=0,
            atol=tolerance * max(1.0, largest),
            msg=lambda text: f"{self.case}/{key}: {text}",
        )

    def same_labels(self, found: Tensor, key: str, margin: Tensor | None = None) -> None:
        """Equal, except where the two best scores, `margin` apart, differ by less than 1e-4."""
        expected = self[key]
        assert found.shape == expected.shape and found.dtype == expected.dtype, key
        wrong = found != expected
        if margin is not None:
            wrong &= margin >= 1e-4
        assert not wrong.any(), f"{self.case}/{key}: {int(wrong.sum())} labels differ"

    def done(self) -> None:
        """Every key of the case was read."""
        assert self.rest == set(), self.case


def load_weights(network: nn.Module, weights: WeakGolden, prefix: str = "sd/") -> None:
    """Fill a network from all keys of the file under `prefix`; names must agree.

    The authors' state dicts come without num_batches_tracked.
    """
    names = [key for key in weights.file.files if key.startswith(prefix)]
    state = {name.removeprefix(prefix): torch.from_numpy(weights.file[name]) for name in names}
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert unexpected == [] and all(name.endswith("num_batches_tracked") for name in missing)


def margin_of(scores: Tensor) -> Tensor:
    """Distance (H,W) of the two best of scores (C,H,W); infinite where there is one."""
    if len(scores) < 2:
        return torch.full(scores.shape[1:], torch.inf)
    best = scores.topk(2, 0).values
    return best[0] - best[1]
