"""Quality of service: where a pod's cgroup lies, what it may use, and that it goes with the pod."""

import os

import contained
from node import wait_for
from pod_case import PodCase, inside, pod, shell

SLEEP = "exec sleep 1000"
ROOT = "/sys/fs/cgroup"
UNIFIED = os.path.exists(os.path.join(ROOT, "cgroup.controllers"))


def cgroup(controller, path):
    return os.path.join(ROOT, path.lstrip("/")) if UNIFIED else os.path.join(ROOT, controller, path.lstrip("/"))


def value(controller, path, old, new):
    with open(os.path.join(cgroup(controller, path), new if UNIFIED else old), encoding="ascii") as file:
        return file.read().strip()


def cgroup_of(pid, controller="memory"):
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
        for line in file:
            _, controllers, path = line.strip().split(":", 2)
            if controllers == "" and UNIFIED or controller in controllers.split(","):
                return path
    return None


class Resources(PodCase):
    def prepare(self):
        super().prepare()
        self.root = self.node.plugins["node-agent"]["config"]["cgroupRoot"]
        self.node.plugins["node-agent"]["config"].update(podPidsLimit=40)

    def test_classes_have_cgroups_with_their_limits(self):
        half = {"cpu": "500m", "memory": "64Mi"}
        guaranteed, one = self.run_pod(pod("guaranteed", shell("one", SLEEP, resources={"limits": half}), shell("two", SLEEP, resources={"limits": half})))
        burstable, two = self.run_pod(pod("burstable", shell("one", SLEEP, resources={"requests": {"cpu": "250m"}}), shell("two", SLEEP)))
        besteffort, three = self.run_pod(pod("besteffort", shell("one", SLEEP)))
        path = {"guaranteed": f"{self.root}/pod{guaranteed.uid}", "burstable": f"{self.root}/burstable/pod{burstable.uid}",
                "besteffort": f"{self.root}/besteffort/pod{besteffort.uid}"}
        for container, name in ((one, "guaranteed"), (two, "burstable"), (three, "besteffort")):
            self.assertEqual(cgroup_of(container.pid), f"{path[name]}/{container.id}")
            self.assertEqual(cgroup_of(container.pid, "cpu"), f"{path[name]}/{container.id}")
            self.assertEqual(value("pids", path[name], "pids.max", "pids.max"), "40")
        self.assertEqual(value("memory", path["guaranteed"], "memory.limit_in_bytes", "memory.max"), str(128 << 20))
        self.assertEqual(value("memory", f"{path['guaranteed']}/{one.id}", "memory.limit_in_bytes", "memory.max"), str(64 << 20))
        self.assertNotEqual(value("memory", path["burstable"], "memory.limit_in_bytes", "memory.max"), str(64 << 20))
        if not UNIFIED:
            self.assertEqual(value("cpu", path["guaranteed"], "cpu.shares", ""), "1024")
            self.assertEqual(value("cpu", path["guaranteed"], "cpu.cfs_quota_us", ""), "100000")
            self.assertEqual(value("cpu", path["burstable"], "cpu.shares", ""), "256")
            self.assertEqual(value("cpu", path["burstable"], "cpu.cfs_quota_us", ""), "-1")
            self.assertEqual(value("cpu", path["besteffort"], "cpu.shares", ""), "2")
            self.assertEqual(value("cpu", f"{self.root}/besteffort", "cpu.shares", ""), "2")
            more, _ = self.run_pod(pod("more", shell("one", SLEEP, resources={"requests": {"cpu": "500m"}})))
            self.assertEqual(value("cpu", f"{self.root}/burstable", "cpu.shares", ""), str(256 + 512))
            self.node.take("more")
            wait_for("it has gone", lambda: "more" not in self.node.pods())
            self.assertEqual(value("cpu", f"{self.root}/burstable", "cpu.shares", ""), "256")
        # The daemon's own coming and going changes nothing.
        self.node.kill()
        self.node.start()
        self.node.wait_for_pods(3)
        self.assertEqual(value("memory", path["guaranteed"], "memory.limit_in_bytes", "memory.max"), str(128 << 20))
        for name in path:
            self.node.take(name)
            wait_for(f"{name} has gone", lambda name=name: name not in self.node.pods())
            self.assertFalse(os.path.exists(cgroup("memory", path[name])), name)
        self.assertFalse(os.path.exists(cgroup("memory", self.root)))

    def test_pods_are_limited_as_a_whole(self):
        whole, container = self.run_pod(pod("whole", shell("one", SLEEP), shell("two", SLEEP, resources={"requests": {"cpu": "100m"}}),
                                            resources={"limits": {"cpu": "600m", "memory": "48Mi"}, "requests": {"cpu": "300m"}}))
        path = f"{self.root}/burstable/pod{whole.uid}"
        self.assertEqual(cgroup_of(container.pid), f"{path}/{container.id}")
        self.assertEqual(value("memory", path, "memory.limit_in_bytes", "memory.max"), str(48 << 20))
        if not UNIFIED:
            self.assertEqual(value("cpu", path, "cpu.shares", ""), "307")
            self.assertEqual(value("cpu", path, "cpu.cfs_quota_us", ""), "60000")
        same, container = self.run_pod(pod("same", shell("one", SLEEP), resources={"limits": {"cpu": "600m", "memory": "48Mi"}}))
        self.assertEqual(cgroup_of(container.pid), f"{self.root}/pod{same.uid}/{container.id}", "Guaranteed: it requests its limits")
        self.assertIn("must be at least what its containers request together, 400m, is 300m", self.refused(pod("less", shell(
            "one", SLEEP, resources={"requests": {"cpu": "400m"}}), resources={"requests": {"cpu": "300m"}})))
        self.assertIn("must be at least what each container may use, 64Mi, is 48Mi", self.refused(pod("less", shell(
            "one", SLEEP, resources={"limits": {"memory": "64Mi"}}), resources={"limits": {"memory": "48Mi"}})))
        self.assertIn("must be cpu, memory or hugepages-SIZE", self.refused(pod("disk", shell("one", SLEEP), resources={
            "limits": {"ephemeral-storage": "1Gi"}})))

    def test_limits_are_kept(self):
        hungry = shell("one", "x=x; while :; do x=$x$x; done", resources={"limits": {"memory": "16Mi"}})
        self.node.drop(pod("hungry", hungry, restartPolicy="Never"))
        wait_for("it is killed", lambda: "hungry" in self.node.pods() and self.node.pods()["hungry"].phase == "Failed", 30)
        self.assertIn("OOMKilled", self.node.pintle("pod", "describe", "hungry"))
        many = shell("one", "(i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i+1)); done); " + SLEEP)
        found, container = self.run_pod(pod("many", many))
        try:
            wait_for("it may fork no more", lambda: any("fork" in line for line in self.log_lines(found)), 20)
        except AssertionError as error:
            path = cgroup_of(container.pid, "pids")
            told = [value("pids", folder, name, name) for folder in (path, os.path.dirname(path)) for name in ("pids.current", "pids.max")]
            raise AssertionError(f"{error}: {self.log_lines(found)} {told}") from None
        self.assertLessEqual(int(value("pids", cgroup_of(container.pid, "pids"), "pids.current", "pids.current")), 40)


if __name__ == "__main__":
    contained.main()
