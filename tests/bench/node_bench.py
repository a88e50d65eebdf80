"""What a node costs that runs 20 pods of two containers: memory, idle CPU, and the time from exec to all plugins ready.

Floors (they fail the run): PSS of the daemon and all plugin hosts under 40 MiB together; each container's monitor under 0.6 MiB;
under 0.5 % of a core while nothing happens; under 100 ms from exec to ready, at the median of 20 starts.
"""

import os
import statistics
import time

import contained
import pods
import processes
from node import NodeTest, wait_for

PODS = 20
IDLE_SECONDS = float(os.environ.get("PINTLE_TEST_IDLE_SECONDS", "20"))


class NodeBench(NodeTest):
    def setUp(self):
        super().setUp()
        self.missed = []

    def floor(self, what, value, at_most, unit):
        held = value < at_most
        print(f"{'held' if held else 'MISSED'}: {what}: {value:.3f} {unit} (under {at_most} {unit})", flush=True)
        if not held:
            self.missed.append(what)

    def test_memory_and_idle_cpu_with_twenty_pods(self):
        for index in range(PODS):
            self.node.drop(pods.pod(f"pod-{index}", pods.container("one", "sleep"), pods.container("two", "sleep")))
        self.node.wait_for_pods(PODS)
        hosts = {plugin["pid"] for plugin in self.node.admin.get("/v1/plugins")["plugins"] if plugin["pid"]} | {self.node.pid}
        settled = processes.cpu_seconds(self.node.pid)

        def is_settled():
            nonlocal settled
            time.sleep(1)
            former, settled = settled, processes.cpu_seconds(self.node.pid)
            return settled - former < 0.02
        wait_for("the node has come to rest", is_settled, 30)

        before = {pid: processes.cpu_seconds(pid) for pid in hosts}
        time.sleep(IDLE_SECONDS)
        used = sum(processes.cpu_seconds(pid) - former for pid, former in before.items())
        self.floor("idle CPU of the daemon and all plugin hosts", 100 * used / IDLE_SECONDS, 0.5, "% of a core")

        parts = {pid: processes.proportional_set_kib(pid) / 1024 for pid in hosts}
        self.floor("PSS of the daemon and all plugin hosts", sum(parts.values()), 40, "MiB")
        for line in (processes.read(f"/proc/{self.node.pid}/smaps_rollup") or "").splitlines():
            if line.startswith(("Rss", "Pss")):
                print("   ", line)
        containers = self.node.containers().values()
        self.assertEqual(len(containers), 2 * PODS)
        monitors = [processes.proportional_set_kib(container.monitor) / 1024 for container in containers]
        self.floor(f"the largest of {len(monitors)} monitors", max(monitors), 0.6, "MiB")
        print(f"    monitors: {statistics.median(monitors):.3f} MiB at the median, {sum(monitors):.1f} MiB together")
        self.assertEqual(self.missed, [])

    def test_time_from_exec_to_ready(self):
        took = []
        for _ in range(20):
            self.node.stop()
            took.append(self.node.start() * 1000)
        took.sort()
        print(f"    {took[0]:.1f} to {took[-1]:.1f} ms")
        self.floor("exec to all plugins ready, at the median", statistics.median(took), 100, "ms")
        self.assertEqual(self.missed, [])


if __name__ == "__main__":
    contained.main()
