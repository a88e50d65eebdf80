"""A machine of its own for a test: process, mount and network namespaces that end with it.

A node that is killed, interrupted or broken leaves processes, mounts, links and rules behind; that is what these tests look for, and
what must not stay on the developer's machine. So each test program starts itself again inside of new namespaces:

    if __name__ == "__main__":
        contained.main()            # instead of unittest.main()

Inside, the program is alone with what it started: every process but itself is the node's, every mount and link that was not there
before is the node's, and `Machine` can compare exactly. When it ends, however it ends, the kernel ends all processes and takes the
network and the mounts away. Only cgroups and files outlive that; `main` removes those that are new and empty.

What stays the kernel's own is not hidden: cgroups are the machine's, `/proc/sys/net` is the network namespace's.
"""

import ctypes
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

INSIDE = "PINTLE_TEST_ROOT"
SKIPPED = 77  # ctest's SKIP_RETURN_CODE
PR_SET_PDEATHSIG = 1


def root():
    """The test's temporary folder, removed at the end."""
    return os.environ[INSIDE]


def build():
    """The build tree under test."""
    return os.environ.get("PINTLE_BUILD") or os.path.join(os.path.dirname(__file__), "..", "..", "build", "release")


def cgroup_folders():
    """Every cgroup of the machine, in all hierarchies."""
    found = set()
    for folder, _, _ in os.walk("/sys/fs/cgroup"):
        found.add(folder)
    return found


def cgroup_is_empty(folder):
    """True for a cgroup of a hierarchy that can tell (pids of v1, any of v2) if no process is in it or below."""
    for name in ("cgroup.events", "pids.current"):
        try:
            with open(os.path.join(folder, name), encoding="ascii") as file:
                text = file.read()
        except OSError:
            continue
        return "populated 0" in text if name == "cgroup.events" else text.strip() == "0"
    return False


def remove_new_cgroups(before):
    """Children first; what still has processes belongs to somebody else and stays."""
    for folder in sorted(cgroup_folders() - before, key=len, reverse=True):
        try:
            os.rmdir(folder)
        except OSError:
            pass


def remove_abandoned_folders():
    """Those of test programs that were killed before they could do it themselves."""
    for folder in glob.glob(os.path.join(tempfile.gettempdir(), "pintle-test-*-*")):
        pid = os.path.basename(folder).split("-")[2]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            shutil.rmtree(folder, ignore_errors=True)


def run_inside():
    """The test proper: loopback up, mounts shared among the test's own children as on a systemd host."""
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    program = unittest.main(module="__main__", verbosity=2, exit=False)
    result = program.result
    if result.wasSuccessful() and result.testsRun and len(result.skipped) == result.testsRun:
        return SKIPPED
    return 0 if result.wasSuccessful() else 1


def main():
    if INSIDE in os.environ:
        sys.stdout.flush()
        code = run_inside()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # threads of a failed test must not hold the end up
    if os.geteuid() != 0:
        print("this test makes namespaces, links and cgroups: run it as root", file=sys.stderr)
        sys.exit(SKIPPED)
    before = cgroup_folders()
    remove_abandoned_folders()
    folder = tempfile.mkdtemp(prefix=f"pintle-test-{os.getpid()}-")
    libc = ctypes.CDLL(None)
    # The shell is process 1 of the new namespace and reaps what is orphaned there.
    inner = ["sh", "-c", '"$@"; code=$?; exit $code', "sh", sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]]
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", *inner]
    try:
        child = subprocess.Popen(command, env={**os.environ, INSIDE: folder},
                                 preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
        signal.signal(signal.SIGTERM, lambda *_: child.kill())
        code = child.wait()
    finally:
        remove_new_cgroups(before)
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(code if code >= 0 else 1)
