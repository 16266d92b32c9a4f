"""A Slurm cluster of this machine alone, from Debian's packages slurm-wlm and munge.

Needs root. All its files are below one folder, its daemons are children of the test.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
MailProg=/bin/true
SchedulerParameters=sched_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def why_not() -> str:
    """Why there can't be such a cluster here; empty where there can."""
    lacking = [n for n in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(n)]
    if lacking:
        return f"Slurm: {', '.join(lacking)} not found (Debian: apt-get install slurm-wlm munge)"
    if sys.platform != "linux" or os.geteuid() != 0:
        return "Slurm's daemons need root on Linux"
    return ""


class Cluster:
    """The cluster, to be closed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.daemons = folder, []
        folder.chmod(0o755)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        config, host = folder / "slurm.conf", socket.gethostname().partition(".")[0]
        config.write_text(_CONFIG.format(folder=folder, host=host, ports=free_ports(2)))
        self.environment = os.environ | {"SLURM_CONF": str(config)}
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed"}
        munge = [f"--{option}={folder}/munge.{end}" for option, end in files.items()]
        self._start("munged", "--foreground", "--force", *munge, f"--log-file={folder}/munge.log")
        _wait("munged", lambda: (folder / "munge.socket").exists())
        self._start("slurmctld", "-D", "-f", config)
        self._start("slurmd", "-D", "-f", config)
        _wait("the node", lambda: "idle" in self.run("sinfo", "--noheader", "--format=%t"))

    def _start(self, *command: object) -> None:
        with (self.folder / f"{command[0]}.out").open("w") as output:
            self.daemons.append(
                subprocess.Popen(
                    [*map(str, command)],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )

    def run(self, *command: object, **variables: str) -> str:
        """What a command of Slurm prints; empty when it fails."""
        done = subprocess.run(
            [*map(str, command)],
            env=self.environment | variables,
            capture_output=True,
            text=True,
        )
        return done.stdout if done.returncode == 0 else ""

    def submit(self, *arguments: object, log: Path, **variables: str) -> str:
        """sbatch: the number of the job, whose output is added to `log`."""
        number = self.run("sbatch", "--parsable", f"--output={log}", *arguments, **variables)
        assert number, f"sbatch {arguments} failed"
        return number.strip()

    def states(self, job: str) -> set[str]:
        """The states of the tasks of a job; empty when all have ended."""
        return set(self.run("squeue", "--noheader", "--format=%T", "--jobs", job).split())

    def close(self) -> None:
        self.run("scancel", "--user=root")
        _wait("the jobs", lambda: not self.run("squeue", "--noheader"), often=300)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            daemon.wait(30)


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _wait(what: str, condition: Callable[[], bool], often: int = 300) -> None:
    for _ in range(often):
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError(f"Slurm: {what} did not get ready")
