"""Two hosts on this machine: Linux network namespaces with one cable between them, and one disk.

Needs root and `ip` (Debian: iproute2).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("carb-a", "carb-b")
# Without a name server each new connection would wait for it. torchrun, which polls the first host,
# would wait for a lost one up to 15 minutes: docs/scaling.md names tcp_retries2.
_START = """
hostname "$1"; mount --bind "$2/hosts" /etc/hosts; mount --bind "$2/nsswitch" /etc/nsswitch.conf
echo 5 > /proc/sys/net/ipv4/tcp_retries2
shift 2; exec "$@"
"""


def why_not() -> str:
    """Why there can't be such hosts here; empty where there can."""
    if sys.platform != "linux" or not all(map(shutil.which, ("ip", "unshare", "mount"))):
        return "two hosts need Linux with ip (iproute2), unshare and mount"
    if os.geteuid() != 0:
        return "two hosts in network namespaces need root"
    probe = ["unshare", "--net", "--uts", "--mount", "ip", "link", "add", "type", "veth"]
    done = subprocess.run(probe, capture_output=True, text=True)
    return f"two hosts: not allowed here ({done.stderr.strip()})" if done.returncode else ""


class Hosts:
    """The hosts carb-a and carb-b, to be closed. folder: for their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        mark = os.getpid()  # tests of two working copies may run at once
        self.spaces = {name: f"{name}-{mark}" for name in NAMES}
        lines = ["127.0.0.1 localhost", *(f"10.99.0.{i} {name}" for i, name in enumerate(NAMES, 1))]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        (folder / "nsswitch").write_text("hosts: files\n")
        one, two = self.spaces.values()
        for space in (one, two):
            ip("netns", "add", space)
        ends = ("name", "eth0", "netns", one, "type", "veth", "peer", "name", "eth0", "netns", two)
        ip("link", "add", *ends)
        for i, space in enumerate((one, two), 1):
            ip("-n", space, "addr", "add", f"10.99.0.{i}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", space, "link", "set", device, "up")

    def cable(self, state: str) -> None:
        """Cut or mend it: `down` or `up`."""
        ip("-n", self.spaces[NAMES[1]], "link", "set", "eth0", state)

    def start(self, host: str, command: list[str], log: Path, **variables: str) -> subprocess.Popen:
        """A command on a host, in a session of its own; its output is added to `log`."""
        space = ["ip", "netns", "exec", self.spaces[host], "unshare", "--uts", "--mount"]
        with log.open("a") as output:
            return subprocess.Popen(
                [*space, "sh", "-c", _START, "sh", host, str(self.folder), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | variables,
                start_new_session=True,
            )

    def close(self) -> None:
        for space in self.spaces.values():
            listed = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True)
            for pid in listed.stdout.split():  # of a test that failed
                subprocess.run(["kill", "-KILL", pid], capture_output=True)
            ip("netns", "delete", space)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
