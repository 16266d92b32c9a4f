"""Reference cases of other methods' code in $CARB_GOLDENS/weak: cases, values, what was read."""

import numpy as np
import torch
from conftest import GOLDENS, load_golden
from torch import Tensor


def cases(name: str, key: str) -> list[str]:
    """Every X with a key X/<key> in weak/<name>; "none" where there is no such file."""
    if GOLDENS is None or not (GOLDENS / "weak" / name).is_file():
        return ["none"]
    with np.load(GOLDENS / "weak" / name, allow_pickle=False) as file:
        return sorted(k.removesuffix(f"/{key}") for k in file.files if k.endswith(f"/{key}"))


class Golden:
    """A case of a file of weak/, or the whole file; remembers which of its keys were not read."""

    def __init__(self, name: str, case: str | None = None) -> None:
        self.file = load_golden(f"weak/{name}")
        self.prefix = "" if case is None else f"{case}/"
        self.unread = {key for key in self.file.files if key.startswith(self.prefix)}

    def __contains__(self, key: str) -> bool:
        return self.prefix + key in self.file.files

    def array(self, key: str) -> np.ndarray:
        self.unread.discard(self.prefix + key)
        return self.file[self.prefix + key]

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self.array(key))

    def names(self, start: str) -> list[str]:
        """The rests of the keys that begin so."""
        start = self.prefix + start
        return [key.removeprefix(start) for key in self.file.files if key.startswith(start)]

    def state_dict(self, start: str = "sd/") -> dict[str, Tensor]:
        return {name: self[start + name] for name in self.names(start)}

    def near(self, key: str, found: Tensor, relative: float = 1e-5) -> None:
        """Assert that `found` is within `relative` of the key's largest value, or of 1."""
        golden = self[key]
        assert found.shape == golden.shape, key
        tolerance = relative * max(1.0, golden.abs().max().item() if golden.numel() else 0.0)
        torch.testing.assert_close(
            found.detach().to(golden.dtype),
            golden,
            rtol=0,
            atol=tolerance,
            msg=lambda text: f"{key}: {text}",
        )

    def same_labels(self, key: str, found: Tensor, scores: Tensor) -> None:
        """Assert equal labels (...), except where the best two of `scores` (C,...) differ little.

        Little is less than 1e-4. Where all are equal, the first one is the label.
        """
        golden = self[key]
        best = scores.topk(min(2, len(scores)), 0).values
        clear = best[0] - best[-1] >= 1e-4 if len(best) > 1 else torch.ones_like(golden).bool()
        clear = clear if clear.any() else torch.ones_like(clear)
        assert found.shape == golden.shape, key
        assert torch.equal(found[clear].long(), golden[clear].long()), key
