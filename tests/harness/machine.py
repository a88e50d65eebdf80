"""What a node may leave behind on the machine, compared before and after.

    before = Machine()
    ... a node comes and goes ...
    left = Machine().difference(before)    # [] or one line for each thing
"""

import glob
import os
import re
import subprocess
import tempfile
import time

import contained
import processes

# Counters and tables that move by themselves.
VOLATILE = re.compile(r"/proc/sys/net/(netfilter/nf_conntrack_(count|.*)|.*/(neigh/|route/flush)|core/|.*random|.*stable_secret)")


def _lines(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line.rstrip() for line in done.stdout.splitlines() if line.strip()]


def _sysctls():
    found = set()
    for folder, _, names in os.walk("/proc/sys/net"):
        for name in names:
            path = os.path.join(folder, name)
            if VOLATILE.match(path):
                continue
            value = processes.read(path)
            if value is not None:
                found.add(f"{path} = {value.strip()}")
    return found


def _mounts():
    found = set()
    for line in (processes.read("/proc/self/mountinfo") or "").splitlines():
        fields = line.split()
        found.add(f"{fields[4]} ({fields[fields.index('-') + 1]})")
    return found


class Machine:
    """A picture of everything that outlives a careless program. Meant for a contained test: processes are all but its own."""

    def __init__(self):
        own = {1, os.getpid()}
        self.parts = {
            "process": {f"{pid} {command}" for pid, command in processes.alive().items() if pid not in own},
            "mount": _mounts(),
            "link": {line.split(":")[1].strip().split("@")[0] for line in _lines("ip", "-o", "link", "show")},
            "address": {" ".join(line.split()[1:4]) for line in _lines("ip", "-o", "address", "show")},
            "route": {f"{family} {line}" for family in ("-4", "-6") for line in _lines("ip", family, "route", "show", "table", "all")},
            "routing rule": {f"{family} {line}" for family in ("-4", "-6") for line in _lines("ip", family, "rule", "show")},
            "nftables": set(_lines("nft", "list", "tables")),
            "cgroup": contained.cgroup_folders(),
            "sysctl": _sysctls(),
        }

    def difference(self, before):
        found = []
        for kind, now in self.parts.items():
            for line in sorted(now - before.parts[kind]):
                if kind == "cgroup" and not self._is_abandoned(line):
                    continue
                found.append(f"{kind} left behind: {line}")
            # Not mounts: those of others vanish from here too, with the folders that they were mounted on.
            if kind in ("link", "address", "sysctl", "nftables"):
                found += [f"{kind} gone: {line}" for line in sorted(before.parts[kind] - now) if not self._is_moved(kind, line, now)]
        return found

    @staticmethod
    def _is_moved(kind, line, now):
        """A changed sysctl is told once, by its new value; those of a link that came and went are gone with it."""
        return kind == "sysctl" and any(other.startswith(line.partition(" = ")[0] + " = ") for other in now)

    @staticmethod
    def _is_abandoned(folder):
        """Others on this machine make cgroups as well: theirs have processes, or are gone soon."""
        relative = folder[len("/sys/fs/cgroup/"):].partition("/")[2]
        for hierarchy in (f"/sys/fs/cgroup/pids/{relative}", f"/sys/fs/cgroup/unified/{relative}", folder):
            if os.path.isdir(hierarchy) and not contained.cgroup_is_empty(hierarchy):
                return False
        return os.path.isdir(folder)


def _names_of_others():
    """Names of files and folders of other test programs that run at this time: ids of their pods and containers are among them."""
    found = set()
    for root in glob.glob(os.path.join(tempfile.gettempdir(), "pintle-test-*-*")):
        if root != contained.root():
            for _, folders, names in os.walk(root):
                found.update(folders, names)
    return found


def _is_of_others(line, names):
    """A cgroup that is named for a pod or container of another test program's node, or for that node."""
    ids = re.findall(r"(?<=[/-])(?:pod)?([0-9a-f][0-9a-f-]{11,}|node-\w+)(?=/|$)", line)
    return any(one in names or one + ".json" in names for one in ids)


def leftovers(before, settle=5.0):
    """The difference that stays: what the kernel takes away in the background gets `settle` seconds, and what was not there at one
    time is somebody else's, who tests at the same time."""
    end = time.monotonic() + settle
    found = None
    while True:
        now = Machine().difference(before)
        found = now if found is None else [line for line in now if line in found]
        if not found:
            return []
        if time.monotonic() > end:
            names = _names_of_others()
            return [line for line in found if not (line.startswith("cgroup ") and _is_of_others(line, names))]
        time.sleep(0.1)
