"""--tensorboard: the log lines, and images of the run, as events in RUN_DIR/tensorboard."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.safe.errors import needs_package


def summary_writer() -> type:
    """torch's SummaryWriter. Raises InputError where the package tensorboard is not installed."""
    with needs_package("--tensorboard", "tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter


class Board:
    """Event file of a run that has taken `step` steps; only rank 0 has one."""

    def __init__(self, run_dir: Path, step: int, class_names: Sequence[str]) -> None:
        self.class_names = class_names
        # purge_step hides what an interrupted run wrote of the steps that are repeated.
        self.writer = summary_writer()(run_dir / "tensorboard", purge_step=step + 1)

    def scalars(self, line: dict[str, Any]) -> None:
        """Write a line of metrics.jsonl, each value under its own name."""
        for key, value in line.items():
            if isinstance(value, list):
                for name, share in zip(self.class_names, value, strict=True):
                    self.writer.add_scalar(f"{key}/{name}", share, line["step"])
            elif key != "step":
                self.writer.add_scalar(key, value, line["step"])
        self.writer.flush()

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Write an image, uint8 (H, W, 3)."""
        self.writer.add_image(name, image, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
