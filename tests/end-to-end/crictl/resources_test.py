"""crictl about what containers use and may use: info, stats, statsp, update; cgroups and devices that a client names."""

import os
import unittest

import contained
import crictl_test
from node import wait_for

ROOT = "/sys/fs/cgroup"
UNIFIED = os.path.exists(os.path.join(ROOT, "cgroup.controllers"))


def load_tests(_loader, _tests, _pattern):
    """Only this file's own: not those of the class that it borrows crictl from."""
    return unittest.TestSuite(Resources(name) for name in sorted(vars(Resources)) if name.startswith("test_"))


def value(pid, controller, old, new):
    """A file of the cgroup that a process is in."""
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
        for line in file:
            _, controllers, path = line.strip().split(":", 2)
            if (UNIFIED and controllers == "") or controller in controllers.split(","):
                folder = os.path.join(ROOT, path.lstrip("/")) if UNIFIED else os.path.join(ROOT, controller, path.lstrip("/"))
                with open(os.path.join(folder, new if UNIFIED else old), encoding="ascii") as content:
                    return content.read().strip()
    return None


@unittest.skipUnless(crictl_test.CRICTL, "crictl is not here: tests/peers/build.sh crictl builds it")
class Resources(crictl_test.Crictl):
    def prepare(self):
        super().prepare()
        runtime = os.environ.get("PINTLE_TEST_RUNTIME")
        if runtime:
            self.node.plugins["runtime-oci"]["config"]["runtime"] = runtime

    def pid_of(self, container):
        return self.json("inspect", container)["info"]["pid"]

    def test_info_tells_what_the_node_is(self):
        info = self.json("info")
        conditions = {condition["type"]: condition["status"] for condition in info["status"]["conditions"]}
        self.assertEqual(conditions, {"RuntimeReady": True, "NetworkReady": True})
        self.assertEqual([runtime["key"] for runtime in info["config"]["runtimes"]], ["runtime-oci@1"])
        self.assertIn(info["config"]["runtimes"][0]["name"], ("crun", "runc"))
        self.assertEqual([network["key"] for network in info["config"]["networks"]], ["network-bridge@1"])
        self.assertEqual(info["config"]["containers"], 0)

    def test_statistics_of_containers_and_pods(self):
        pod, config = self.run_pod("busy")
        busy = self.run_container(pod, config, "busy", "/bin/sh", "-c",
                                  "x=$(cat /dev/zero | busybox head -c 3000000 | busybox tr '\\0' x); cat /bin/busybox > /copy; while :; do :; done")
        idle = self.run_container(pod, config, "idle", "/bin/workload", "sleep")

        def measured():
            stats = {one["attributes"]["id"]: one for one in self.json("stats", "-a")["stats"]}
            if not {busy, idle} <= set(stats):
                return None
            used = int(stats[busy]["cpu"]["usageCoreNanoSeconds"]["value"])
            return stats if used > 200_000_000 and int(stats[busy]["memory"]["workingSetBytes"]["value"]) > 3_000_000 else None
        stats = wait_for("the busy container has used a fifth of a second", measured, 20, 0.2)
        self.assertEqual(stats[busy]["attributes"]["metadata"]["name"], "busy")
        self.assertEqual(stats[busy]["attributes"]["labels"]["tier"], "busy")
        self.assertLess(int(stats[idle]["cpu"]["usageCoreNanoSeconds"]["value"]), 100_000_000)
        self.assertGreater(int(stats[busy]["memory"]["workingSetBytes"]["value"]), int(stats[idle]["memory"]["workingSetBytes"]["value"]))
        self.assertGreater(int(stats[busy]["memory"]["usageBytes"]["value"]), 0)
        written = wait_for("the copy is counted", lambda: int(
            self.json("stats", busy)["stats"][0]["writableLayer"]["usedBytes"]["value"]) >= os.path.getsize("/bin/busybox"), 20, 0.5)
        self.assertTrue(written)
        self.assertEqual({one["attributes"]["id"] for one in self.json("stats", "-p", pod, "-a")["stats"]}, {busy, idle})
        self.assertIn("busy", self.crictl("stats"))

        of_pods = self.json("statsp")["stats"]
        self.assertEqual([one["attributes"]["id"] for one in of_pods], [pod])
        linux = of_pods[0]["linux"]
        self.assertGreater(int(linux["cpu"]["usageCoreNanoSeconds"]["value"]), 200_000_000)
        self.assertGreater(int(linux["memory"]["workingSetBytes"]["value"]), 3_000_000)
        self.assertEqual({one["attributes"]["id"] for one in linux["containers"]}, {busy, idle})
        self.assertGreaterEqual(int(linux["process"]["processCount"]["value"]), 2)
        interface = ((linux["network"] or {}).get("defaultInterface") or {})
        self.assertEqual(interface.get("name"), "eth0")
        self.assertGreater(int(interface["rxBytes"]["value"]) + int(interface["txBytes"]["value"]), 0)
        self.assertIn("busy", self.crictl("statsp"))

    def test_update_changes_the_limits_of_what_runs(self):
        pod, config = self.run_pod("limits")
        container = self.run_container(pod, config, "limited", "/bin/workload", "sleep",
                                       linux={"resources": {"memory_limit_in_bytes": 128 << 20, "cpu_shares": 512}})
        pid = self.pid_of(container)
        self.assertEqual(value(pid, "memory", "memory.limit_in_bytes", "memory.max"), str(128 << 20))
        self.assertEqual(self.crictl("update", "--memory", 64 << 20, "--cpu-quota", 20000, "--cpu-period", 50000, "--cpu-share", 256, container), container)
        self.assertEqual(self.pid_of(container), pid)
        self.assertEqual(value(pid, "memory", "memory.limit_in_bytes", "memory.max"), str(64 << 20))
        if UNIFIED:
            self.assertEqual(value(pid, "cpu", "", "cpu.max"), "20000 50000")
        else:
            self.assertEqual(value(pid, "cpu", "cpu.cfs_quota_us", ""), "20000")
            self.assertEqual(value(pid, "cpu", "cpu.cfs_period_us", ""), "50000")
            self.assertEqual(value(pid, "cpu", "cpu.shares", ""), "256")
        resources = self.json("inspect", container)["status"]["resources"]["linux"]
        self.assertEqual(int(resources["memoryLimitInBytes"]), 64 << 20)
        self.node.kill()
        self.node.start()
        self.assertEqual(int(self.json("inspect", container)["status"]["resources"]["linux"]["memoryLimitInBytes"]), 64 << 20)
        self.assertIn("cpuset", self.refused("update", "--cpuset-cpus", "4711", container))
        self.assertIn("not found", self.refused("update", "--memory", 64 << 20, "f" * 64))
        self.crictl("stop", "-t", 0, container)
        self.assertIn("has ended", self.refused("update", "--memory", 64 << 20, container))

    def test_a_pods_cgroup_is_where_its_client_wants_it(self):
        parent = f"/pintle-crictl-{os.getpid()}/pod"
        config = self.pod_config("parented", linux={"cgroup_parent": parent, "resources": {"memory_limit_in_bytes": 96 << 20}})
        pod = self.crictl("runp", config)
        container = self.run_container(pod, config, "one", "/bin/workload", "sleep")
        pid = self.pid_of(container)
        with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
            self.assertIn(f"{parent}/{container}", file.read())
        folder = os.path.join(ROOT, parent.lstrip("/")) if UNIFIED else os.path.join(ROOT, "memory", parent.lstrip("/"))
        with open(os.path.join(folder, "memory.max" if UNIFIED else "memory.limit_in_bytes"), encoding="ascii") as file:
            self.assertEqual(file.read().strip(), str(96 << 20))
        self.crictl("rmp", "-f", pod)
        self.assertFalse(os.path.exists(folder))
        for hierarchy in (ROOT,) if UNIFIED else [os.path.join(ROOT, name) for name in os.listdir(ROOT)]:
            if os.path.isdir(hierarchy + os.path.dirname(parent)):
                os.rmdir(hierarchy + os.path.dirname(parent))
        self.assertIn("cgroup_parent", self.refused("runp", self.pod_config("bad", linux={"cgroup_parent": "/a/../.."})))

    def test_devices(self):
        pod, config = self.run_pod("devices")
        # Only to open it shows what the cgroup allows: what this device is told it refuses in any case.
        script = """(: < /dev/mine) && echo may read; (: > /dev/mine) 2>/dev/null || echo may not write
                    busybox mknod /own c 10 237; (: < /own) && echo may read by another name
                    busybox mknod /disk b 7 0; (: < /disk) 2>&1; echo tried; exec sleep 1000"""
        container = self.run_container(pod, config, "one", "/bin/sh", "-c", script, devices=[
            {"host_path": "/dev/null", "container_path": "/dev/other", "permissions": "rwm"},
            {"host_path": "/dev/loop-control", "container_path": "/dev/mine", "permissions": "r"}])
        lines = wait_for("it has tried", lambda: (lambda text: text.splitlines() if "tried" in text else None)(
            self.run_crictl("logs", container).stdout), 10)
        self.assertEqual(lines[:3], ["may read", "may not write", "may read by another name"])
        self.assertIn("Operation not permitted", lines[3])
        self.assertEqual(self.crictl("exec", "-s", container, "/bin/busybox", "stat", "-c", "%t:%T", "/dev/other"), "1:3")
        bad = self.container_config("bad", "/bin/workload", "sleep", devices=[{"host_path": "/dev/null", "container_path": "/dev/x", "permissions": "rwx"}])
        self.assertIn("are not of r, w and m", self.refused("create", pod, bad, config))
        nowhere = self.container_config("bad", "/bin/workload", "sleep", devices=[{"host_path": "/dev/nowhere", "container_path": "/dev/x", "permissions": "r"}])
        self.assertIn("/dev/nowhere", self.refused("create", pod, nowhere, config))


if __name__ == "__main__":
    contained.main()
