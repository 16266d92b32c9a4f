"""Where a benchmark ran: numbers of different machines do not compare."""

import os
import platform
import sys
from pathlib import Path

import torch

from utils.run_folder import git


def describe(device: str) -> dict[str, str | int | float]:
    machine = {
        "cpu": cpu_model(),
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


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Its name and, where Linux tells them, what a hypervisor's plain "AMD EPYC" leaves out."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    # The last processor's: all are of one kind.
    found = {key.strip(): value.strip() for key, value in pairs}
    name = found.get("model name") or platform.processor() or platform.machine()
    kinds = {"family": "cpu family", "model": "model", "stepping": "stepping"}
    known = [f"{kind} {found[key]}" for kind, key in kinds.items() if key in found]
    return f"{name} ({' '.join(known)})" if known else name
