"""What /proc tells of processes. A process that has gone is None or left out, never an error."""

import os
import signal
import select


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return None


def alive():
    """All processes but zombies and the kernel's: pid -> command line."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        command = read(f"/proc/{name}/cmdline")
        stat = read(f"/proc/{name}/stat")
        if command is None or stat is None or stat.rpartition(")")[2].split()[0] in "ZX":
            continue
        found[int(name)] = command.replace("\0", " ").strip() or stat.partition("(")[2].rpartition(")")[0]
    return found


def start_time(pid):
    """Field 22 of /proc/PID/stat: with the pid it names a process for ever."""
    stat = read(f"/proc/{pid}/stat")
    return int(stat.rpartition(")")[2].split()[19]) if stat else None


def namespace(pid, kind="net"):
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return None


def cpu_seconds(pid):
    stat = read(f"/proc/{pid}/stat")
    if not stat:
        return 0.0
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def proportional_set_kib(pid, kind="Pss"):
    """Of what several processes share, each has its share: "Pss" is less beside others. "Pss_Anon" is what a process has allocated."""
    for line in (read(f"/proc/{pid}/smaps_rollup") or "").splitlines():
        if line.startswith(kind + ":"):
            return int(line.split()[1])
    return 0


def kill_and_wait(pid, number=signal.SIGKILL, limit=30):
    """Through a pidfd; returns when the process has ended (whether its parent has reaped it or not)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, number)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(limit * 1000):
            raise TimeoutError(f"process {pid} did not end within {limit} s of signal {number}")
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)
