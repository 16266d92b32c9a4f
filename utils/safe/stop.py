"""Training that is told to stop, by SIGTERM or Ctrl-C, ends after the step it is in and saves."""

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Self

import torch
import torch.distributed as dist

from utils.distributed import Ranks
from utils.safe.signals import same_command


class Stop:
    """In a ``with`` statement, notes SIGTERM and Ctrl-C instead of ending; a second Ctrl-C ends.

    torchrun passes a signal on to all its ranks and kills what is left after 30 seconds.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.parent = ranks, os.getppid()
        self.received = 0  # by this process
        self.number = 0  # that all ranks agreed on
        # Not the group of the gradients: that of GPUs would make the host wait for them.
        self.group = dist.new_group(backend="gloo") if ranks.world_size > 1 else None

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
        if self.ranks.is_main:  # not by print(), which may be what the signal interrupted
            with contextlib.suppress(OSError):  # its terminal was closed
                os.write(2, b"\nstopping after this step; Ctrl-C to stop without saving\n")

    def agreed(self) -> int:
        """Called after every step: the signal that any rank has received, or 0; alike on all."""
        if os.getppid() != self.parent and "TORCHELASTIC_RUN_ID" in os.environ:
            self.received = signal.SIGTERM  # torchrun was killed: nobody else will end this process
        self.number = self.received
        if self.group is not None:
            number = torch.tensor(self.received)
            dist.all_reduce(number, dist.ReduceOp.MAX, self.group)
            self.number = int(number)
        return self.number

    def leave(self) -> None:
        """The last line of a script: after a signal, say how to go on and exit with its status."""
        if self.number:
            if self.ranks.is_main:
                print(f"stopped; to go on:\n    {same_command()}", flush=True)
            sys.exit(128 + self.number)
