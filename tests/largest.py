"""The largest tensor that a computation makes."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    """`numel` of the largest tensor made inside the `with` block; `stored` leaves out views."""

    def __init__(self, stored: bool = False) -> None:
        super().__init__()
        self.stored, self.numel = stored, 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and not (self.stored and tensor._base is not None):
                self.numel = max(self.numel, tensor.numel())
        return result
