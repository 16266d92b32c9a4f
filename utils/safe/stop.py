"""Stopping a training on SIGTERM or Ctrl-C after the current step, with a checkpoint."""

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Self

import torch
import torch.distributed as dist

from utils.distributed import Ranks, gloo_group
from utils.safe.signals import same_command


class Stop:
    """Context that records SIGTERM and Ctrl-C instead of ending; a second Ctrl-C ends.

    torchrun passes a signal on to all its ranks and kills those left after 30 seconds.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.parent = ranks, os.getppid()
        self.received = 0  # by this process
        self.signal = 0  # that all ranks agreed on
        # Not the group of the gradients, which on GPUs would make the host wait.
        self.group = gloo_group() if ranks.world_size > 1 else None

    def __enter__(self) -> Self:
        numbers = (signal.SIGINT, signal.SIGTERM)
        ours = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        self.before = {number: signal.signal(number, self._note) for number in ours}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt(number)
        self.received = number
        if self.ranks.is_main:  # not print(), which the signal may have interrupted
            with contextlib.suppress(OSError):  # its terminal was closed
                os.write(2, b"\nstopping after this step; Ctrl-C to stop without saving\n")

    def agree(self) -> int:
        """The signal that any rank has received, or 0; the same on all. For after every step."""
        if os.getppid() != self.parent and "TORCHELASTIC_RUN_ID" in os.environ:
            self.received = signal.SIGTERM  # torchrun was killed and can't end this process
        self.signal = self.received
        if self.group is not None:
            number = torch.tensor(self.received)
            dist.all_reduce(number, dist.ReduceOp.MAX, self.group)
            self.signal = int(number)
        return self.signal

    def exit_if_stopped(self) -> None:
        """After a signal, print how to resume and exit with its status; call it at the end."""
        if self.signal:
            if self.ranks.is_main:
                print(f"stopped; to resume:\n    {same_command()}", flush=True)
            sys.exit(128 + self.signal)
