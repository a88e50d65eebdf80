"""Pintle against containerd 1.6, the same driver (cri_driver.cpp) through CRI, in one run on one machine.

containerd runs with Debian's packages: runc, and the CNI reference plugins bridge, host-local and portmap. Floors are ratios of what Pintle
needs to what containerd needs, and fail the run: sandbox create 1/10, create and start until the process's first log line 1/3 (2/3 with
runc on both sides), stop and remove 1/8, ten sandboxes at once 1/5 at p95, a hundred pods at once 1/4 in time and in CPU seconds of the
machine. On Pintle's own: CNI ADD in process 2 ms, a manifest until its process has written a line 30 ms at the median, 50 manifests at once 1.5 s.

PINTLE_BENCH_ROUNDS sets how often each is measured (30).
"""

import datetime
import glob
import json
import os
import re
import statistics
import subprocess
import sys
import time

import contained
import containerd
import pods
import processes
from containerd import Containerd
from node import NodeTest, wait_for

ROUNDS = int(os.environ.get("PINTLE_BENCH_ROUNDS", "30"))
PAUSE = "pintle.local/test/pause:latest"
FLOORS = {"sandbox": 1 / 10, "start": 1 / 3, "remove": 1 / 8, "parallel": 1 / 5, "pods": 1 / 4, "pods' CPU": 1 / 4}

CONFLIST = {"cniVersion": "1.0.0", "name": "bench", "plugins": [
    {"type": "bridge", "bridge": "bench0", "isGateway": True, "ipMasq": True, "hairpinMode": True,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.214.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": True}}]}


def forget_network():
    """What the reference plugins leave behind when their pods are gone."""
    subprocess.run(["ip", "link", "del", "bench0"], check=False, stderr=subprocess.DEVNULL)
    for family in ("ip", "ip6"):
        for table in ("nat", "filter"):
            subprocess.run(["nft", "delete", "table", family, table], check=False, stderr=subprocess.DEVNULL)


def pause_archive():
    """The sandbox image: a static program that waits, as the original does."""
    source = os.path.join(contained.root(), "pause.c")
    program = os.path.join(contained.root(), "pause")
    with open(source, "w", encoding="utf-8") as file:
        file.write("#include <signal.h>\n#include <unistd.h>\nstatic void end(int n) { (void)n; _exit(0); }\n"
                   "int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }\n")
    subprocess.run(["cc", "-Os", "-static", "-s", "-o", program, source], check=True)
    return pods.archive_of(PAUSE, {"pause": program}, ["/pause"])


class Comparison(NodeTest):
    runtime, other = "crun", "runc"

    def prepare(self):
        self.node.plugins["runtime-oci"]["config"]["runtime"] = self.runtime

    def drive(self, socket, what, rounds):
        logs = os.path.join(contained.root(), "bench-logs")
        os.makedirs(logs, exist_ok=True)
        done = subprocess.run([os.path.join(contained.build(), "tests/bench/cri_driver"), socket, pods.IMAGE, logs, what, str(rounds)],
                              capture_output=True, text=True, check=False, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def compare(self, what, ours, theirs, floor):
        ratio = ours / theirs
        held = floor is None or ratio <= floor
        limit = "" if floor is None else f" (at most {floor:.3f})"
        print(f"{'held' if held else 'MISSED'}: {what}: {ours:.2f} against {theirs:.2f}, ratio {ratio:.3f}{limit}", flush=True)
        if not held:
            self.missed.append(what)

    def run_both(self, floors):
        self.missed = []
        peer = Containerd(CONFLIST, runtime=self.other, sandbox_image=PAUSE, archives=[pause_archive()])
        try:
            sides = (self.node.cri_socket, peer.socket)
            for socket in sides:  # what is read and made once
                self.drive(socket, "start", 2)
            for what in ("sandbox", "start", "remove"):
                ours, theirs = (statistics.median(self.drive(socket, what, ROUNDS)["milliseconds"]) for socket in sides)
                self.compare(f"{what}, median ms", ours, theirs, floors.get(what))
            ours, theirs = (statistics.quantiles(self.drive(socket, "parallel", max(2, ROUNDS // 5))["milliseconds"], n=20)[-1]
                            for socket in sides)
            self.compare("10 sandboxes at once, p95 ms", ours, theirs, floors.get("parallel"))
            ours, theirs = (self.drive(socket, "pods", 100) for socket in sides)
            self.compare("100 pods at once, ms", ours["total"], theirs["total"], floors.get("pods"))
            self.compare("100 pods at once, CPU s", ours["cpu_seconds"], theirs["cpu_seconds"], floors.get("pods' CPU"))
        finally:
            peer.stop()
            forget_network()
        self.assertEqual(self.missed, [])


class AgainstContainerd(Comparison):
    def test_crun_against_containerd_with_runc(self):
        self.run_both(FLOORS)


class WithRuncOnBothSides(Comparison):
    runtime, other = "runc", "runc"

    def test_runc_against_containerd_with_runc(self):
        self.run_both({"sandbox": FLOORS["sandbox"], "start": 2 / 3})


class WithCrunOnBothSides(Comparison):
    runtime, other = "crun", "crun"

    def test_crun_against_containerd_with_crun(self):
        self.run_both({"sandbox": FLOORS["sandbox"]})


class OnOurOwn(NodeTest):
    def floor(self, what, value, at_most, unit):
        held = value <= at_most
        print(f"{'held' if held else 'MISSED'}: {what}: {value:.2f} {unit} (at most {at_most} {unit})", flush=True)
        self.assertTrue(held, what)

    def test_manifest_to_process(self):
        # By the time stamp in its log: a loop that looks for the process in /proc would take one of two processors.
        took = []
        for index in range(ROUNDS):
            name = f"one-{index}"
            begun = time.time()
            self.node.drop(pods.pod(name, pods.container("main", "ticks", 600000)))
            line = wait_for("its first line is in the log", lambda: self.first_line(name), 10)
            took.append((datetime.datetime.fromisoformat(line.split()[0]).timestamp() - begun) * 1000)
            self.node.take(name)
            self.node.wait_for_none()
        self.floor("a manifest until its process runs, median", statistics.median(took), 30, "ms")

    def first_line(self, pod):
        found = glob.glob(os.path.join(self.node.logs, f"default_{pod}_*", "main", "0.log"))
        line, ended, _ = (processes.read(found[0]) or "").partition("\n") if found else ("", "", "")
        return line if ended else None

    def test_fifty_manifests_at_once(self):
        begun = time.monotonic()
        for index in range(50):
            self.node.drop(pods.pod(f"many-{index}", pods.container("main", "sleep")))
        wait_for("all processes run", lambda: sum(command.startswith("/bin/workload") for command in processes.alive().values()) == 50,
                 30, 0.005)
        self.floor("50 manifests dropped at once", time.monotonic() - begun, 1.5, "s")

    def test_network_add_in_process(self):
        for index in range(20):  # one after the other: what is measured is the attachment, not the queue before it
            self.node.drop(pods.pod(f"pod-{index}", pods.container("main", "sleep")))
            self.node.wait_for_pods(index + 1)
        text = self.node.admin.request("GET", "/metrics")[1].decode()
        total, count = (sum(float(value) for value in re.findall(rf"^pod_network_attach_seconds_{part}(?:{{[^}}]*}})? (\S+)", text, re.M))
                        for part in ("sum", "count"))
        self.assertEqual(count, 20)
        self.floor("CNI ADD in process, mean", 1000 * total / count, 2, "ms")


if __name__ == "__main__":
    if not containerd.is_installed():
        print("containerd_bench is skipped: it needs Debian's containerd and containernetworking-plugins")
        sys.exit(77)
    contained.main()
