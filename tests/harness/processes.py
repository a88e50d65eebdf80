"""What /proc tells of processes. A process that has gone is None or left out, never an error."""

import array
import fcntl
import os
import select
import signal
import termios


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return None


def named_stat(pid):
    """The name in /proc/PID/stat and the fields from the third on (proc(5)): [0] is the state, [1] the parent; None, None: it has gone."""
    stat = read(f"/proc/{pid}/stat")
    if not stat:
        return None, None
    before, _, after = stat.rpartition(")")
    return before.partition("(")[2], after.split()


def stat_fields(pid):
    """The second half of `named_stat`."""
    return named_stat(pid)[1]


def alive():
    """All processes but zombies and the kernel's: pid -> command line."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        command = read(f"/proc/{name}/cmdline")
        own_name, fields = named_stat(name)
        if command is None or fields is None or fields[0] in "ZX":
            continue
        found[int(name)] = command.replace("\0", " ").strip() or own_name
    return found


def start_time(pid):
    """Field 22 of /proc/PID/stat: with the pid it names a process for ever."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else None


def namespace(pid, kind="net"):
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return None


def cpu_seconds(pid):
    fields = stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def unread_output(pid):
    """Bytes in the pipe behind the process' standard output that its reader has not taken yet."""
    try:
        pipe = os.open(f"/proc/{pid}/fd/1", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        count = array.array("i", [0])
        fcntl.ioctl(pipe, termios.FIONREAD, count)
        return count[0]
    finally:
        os.close(pipe)


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
