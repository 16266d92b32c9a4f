"""Where a benchmark ran: numbers of different machines do not compare."""

import os
import platform
import sys
from pathlib import Path

import torch

from utils.runlog import git


def describe(device: str) -> dict[str, str | int | float]:
    machine = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "load_average": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "commit": git("rev-parse", "--short", "HEAD") + "+changes" * bool(git("status", "--short")),
    }
    if device.startswith("cuda"):
        machine |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda or ""}
    return machine


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
