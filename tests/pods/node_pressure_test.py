"""A node that runs short: who is evicted, what users are told of it, and who is let in meanwhile.

What runs short is made small for the test: all pods together may use 600 MiB, or the node's state lies on a small file system.
"""

import json
import os
import subprocess
import time

import contained
import machine
import pods
from node import wait_for
from pod_case import PodCase, pod, shell
from resources_test import value

SLEEP = "exec sleep 1000"
MIB = 1 << 20


def node_memory():
    """Bytes for pods and all else; what the machine has in huge pages is not among them."""
    with open("/proc/meminfo", encoding="ascii") as file:
        kibibytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in file)}
    return (kibibytes["MemTotal"] - kibibytes.get("Hugetlb", 0)) << 10


def eater(name, mebibytes, request=None, limit=None, **spec):
    """A pod that fills so much memory."""
    container = pods.container("one", "eat", mebibytes)
    container["resources"] = {}
    if request:
        container["resources"]["requests"] = {"memory": request}
    if limit:
        container["resources"]["limits"] = {"memory": limit, "cpu": "100m"}
    made = pod(name, container, **spec)
    made["spec"]["terminationGracePeriodSeconds"] = 5
    return made


class PressureCase(PodCase):
    def prepare(self):
        super().prepare()
        self.config = self.node.plugins["node-agent"]["config"]
        self.config.update(cgroupRoot=f"/kubepods-{os.getpid()}-{os.path.basename(self.node.root)}", housekeepingSeconds=0.5,
                           evictionPressureTransitionPeriod="3s")
        # What this machine has left of other things is no matter of these tests.
        self.config["evictionHard"] = {signal: "0%" for signal in (
            "memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")}

    def status(self, name):
        return json.loads(self.node.pods()[name].json)["status"]

    def wait_for_end(self, name, reason="Evicted", limit=40):
        """The status of a pod that the node ends."""
        def ended():
            found = self.node.pods().get(name)
            return found and found.phase == "Failed" and found
        try:
            wait_for(f"{name} is ended by the node", ended, limit)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{list(self.node.pods().values())}\n{self.node.pintle('status')}") from None
        status = self.status(name)
        self.assertEqual(status["reason"], reason, status)
        return status

    def conditions(self):
        shown = json.loads(self.node.pintle("status", "-o", "json"))
        return {one["type"]: one["status"] for one in shown["kubernetes"]["status"]["conditions"]}


class Memory(PressureCase):
    def prepare(self):
        super().prepare()
        self.config.update(systemReserved={"memory": str(node_memory() - 600 * MIB)})
        self.config["evictionHard"]["memory.available"] = "150Mi"

    def test_the_pod_that_uses_most_beyond_its_request_goes(self):
        within, _ = self.run_pod(eater("within", 150, request="200Mi"))
        guaranteed, _ = self.run_pod(eater("guaranteed", 40, limit="60Mi"))
        small, _ = self.run_pod(eater("small", 30, priority=20))
        self.assertEqual(value("memory", self.config["cgroupRoot"], "memory.limit_in_bytes", "memory.max"), str(600 * MIB))
        before = {container.identity() for container in self.node.containers().values()}
        # More important than those that keep to their requests, which saves it from nothing.
        self.node.drop(eater("greedy", 320, request="10Mi", priority=10))
        status = self.wait_for_end("greedy")
        self.assertRegex(status["message"], r"^The node was low on resource: memory\. Threshold quantity: 150Mi, available: \d+\w*\. "
                         r"Container one was using \d+\w*, request is 10Mi, has larger consumption of memory\.$")
        disruption = {one["type"]: one for one in status["conditions"]}.get("DisruptionTarget", {})
        self.assertEqual((disruption.get("status"), disruption.get("reason")), ("True", "TerminationByKubelet"))
        self.assertEqual(disruption["message"], status["message"])
        self.assertEqual({container.identity() for container in self.node.containers().values()}, before)
        for name in ("within", "guaranteed", "small"):
            self.assertTrue(self.node.pods()[name].is_running(), name)
        self.assertIn("Evicted", self.node.pintle("pod", "ls"))
        told = self.node.pintle("pod", "describe", "greedy")
        self.assertIn("The node was low on resource: memory", told)
        self.assertRegex(told, r"Warning +Evicted")
        # It stays so, whatever becomes of the daemon, until its manifest is another.
        self.node.kill()
        self.node.start()
        wait_for("the pods are known again", lambda: len(self.node.pods()) == 4)
        self.assertEqual(self.status("greedy").get("reason"), "Evicted")
        self.assertEqual({container.identity() for container in self.node.containers().values()}, before)
        self.run_pod(eater("greedy", 20))

    def test_priority_comes_before_usage(self):
        self.run_pod(eater("important", 200, priority=1000))
        self.run_pod(eater("lesser", 80))
        self.run_pod(eater("node-own", 60, priorityClassName="system-node-critical"))
        self.node.drop(eater("within", 150, request="180Mi"))
        self.wait_for_end("lesser")
        wait_for("the others run on", lambda: self.node.pods()["within"].is_running())
        self.assertTrue(self.node.pods()["important"].is_running())
        self.assertTrue(self.node.pods()["node-own"].is_running())

    def test_pods_without_requests_wait_while_memory_is_short(self):
        self.node.plugins["node-agent"]["config"]["evictionPressureTransitionPeriod"] = "12s"
        self.node.apply(self.node.plugins)
        self.node.wait_ready()
        self.node.drop(eater("greedy", 470))
        self.wait_for_end("greedy")
        self.assertEqual(self.conditions()["MemoryPressure"], "True")
        self.assertEqual(self.conditions()["DiskPressure"], "False")
        self.assertIn("MemoryPressure", self.node.pintle("status"))
        self.node.drop(pod("besteffort", shell("one", SLEEP)))
        refused = self.wait_for_end("besteffort")
        self.assertEqual(refused["message"], "Pod was rejected: The node had condition: [MemoryPressure].")
        self.run_pod(eater("burstable", 5, request="10Mi"))
        self.run_pod(pod("critical", shell("one", SLEEP), priorityClassName="system-node-critical"))
        self.assertEqual(self.conditions()["MemoryPressure"], "True", "both were let in before it ended")
        wait_for("it is let in when memory is there again", lambda: self.node.pods()["besteffort"].is_running(), 30)
        self.assertEqual(self.conditions()["MemoryPressure"], "False")

    def test_a_soft_threshold_waits_and_gives_grace(self):
        self.config["evictionHard"]["memory.available"] = "20Mi"
        self.config.update(evictionSoft={"memory.available": "200Mi"}, evictionSoftGracePeriod={"memory.available": "3s"},
                           evictionMaxPodGracePeriod=5)
        # kubelet watches soft thresholds on the whole node: what is left of it is as much as this machine has.
        with open("/proc/meminfo", encoding="ascii") as file:
            numbers = {line.split(":")[0]: int(line.split()[1]) << 10 for line in file}
        self.config["evictionSoft"]["memory.available"] = str(numbers["MemTotal"] - 64 * MIB)
        self.node.apply(self.node.plugins)
        self.node.wait_ready()
        begun = time.monotonic()
        gentle = pod("gentle", shell("one", "trap 'echo told; exit 0' TERM; while :; do sleep 0.1; done"))
        gentle["spec"]["terminationGracePeriodSeconds"] = 30
        gentle["spec"]["containers"][0]["resources"] = {"requests": {"memory": "10Mi"}}
        found, _ = self.run_pod(gentle)
        self.wait_for_end("gentle")
        self.assertGreater(time.monotonic() - begun, 2)
        self.assertIn("told", self.log_lines(found))


class Room(PressureCase):
    """What is reserved, and what no pod gets any more."""

    def prepare(self):
        super().prepare()
        self.config.update(maxPods=3, systemReserved={"memory": str(node_memory() - 600 * MIB), "cpu": "100m", "pid": "1000"},
                           kubeReserved={"memory": "100Mi", "ephemeral-storage": "1Gi"})

    def idle(self, name, requests=None, **spec):
        return pod(name, shell("one", SLEEP, resources={"requests": requests or {}}), **spec)

    def test_pods_that_do_not_fit_are_refused_until_there_is_room(self):
        self.run_pod(self.idle("first", {"memory": "300Mi"}))
        self.assertRegex(self.node.pintle("status"), r"Pods +may have cpu \S+ of \d+, memory [\d.]+[MG]i of [\d.]+[MG]i, ephemeral-storage [\d.]+[MGT]i ")
        node = json.loads(self.node.pintle("status", "-o", "json"))["kubernetes"]["status"]
        self.assertEqual(node["allocatable"]["memory"], "500Mi")
        self.assertEqual(node["allocatable"]["pods"], "3")
        self.assertNotEqual(node["allocatable"]["cpu"], node["capacity"]["cpu"])
        self.node.drop(self.idle("second", {"memory": "300Mi"}))
        status = self.wait_for_end("second", "OutOfmemory")
        self.assertEqual(status["message"], f"Pod was rejected: Node didn't have enough resource: memory, requested: {300 * MIB}, "
                         f"used: {300 * MIB}, capacity: {500 * MIB}")
        self.assertIn("OutOfmemory", self.node.pintle("pod", "ls"))
        for name, reason, requests in (("cores", "OutOfcpu", {"cpu": "1000"}), ("storage", "OutOfephemeral-storage", {"ephemeral-storage": "1000Ti"})):
            self.node.drop(self.idle(name, requests))
            self.wait_for_end(name, reason)
        self.run_pod(self.idle("third"))
        self.run_pod(self.idle("fourth"))
        self.node.drop(self.idle("fifth"))
        self.assertIn("requested: 1, used: 3, capacity: 3", self.wait_for_end("fifth", "OutOfpods")["message"])
        self.node.take("first")
        wait_for("there is room for one of both", lambda: any(self.node.pods()[name].is_running() for name in ("second", "fifth")))

    def test_the_nodes_own_pods_displace_others(self):
        self.run_pod(self.idle("low", {"memory": "200Mi"}, priority=1))
        self.run_pod(self.idle("high", {"memory": "200Mi"}, priority=2))
        self.node.drop(self.idle("own", {"memory": "300Mi"}, priorityClassName="system-node-critical"))
        self.assertEqual(self.wait_for_end("low", "Preempting")["message"], "Preempted in order to admit critical pod")
        wait_for("it runs instead", lambda: self.node.pods()["own"].is_running())
        self.assertTrue(self.node.pods()["high"].is_running())

    def test_reservations_that_leave_nothing_are_refused(self):
        self.config["systemReserved"] = {"memory": "1000Ti"}
        self.node.write_profile()
        done = self.node.pintle("profile", "apply", "test", check=False)
        told = done.stdout + done.stderr + self.node.log_tail(100)
        self.assertIn("leave nothing of the node's", told)
        self.config["systemReserved"] = {}
        self.node.apply(self.node.plugins)
        self.node.wait_ready()


class Disk(PressureCase):
    size, inodes = 160, 4000

    def prepare(self):
        super().prepare()
        self.disk = os.path.join(contained.root(), "disk-" + os.path.basename(self.node.root))
        os.makedirs(self.disk)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.size}m,nr_inodes={self.inodes},mode=0700", "tmpfs", self.disk], check=True)
        # Below the disk, so that it is no mount that the node has left.
        self.before = machine.Machine()
        self.addCleanup(subprocess.run, ["umount", "-l", self.disk], check=False)
        self.node.state = os.path.join(self.disk, "state")
        os.makedirs(self.node.state)

    def writer(self, name, script, container=None, volume=None, **spec):
        made = pod(name, {**shell("one", script + f"; {SLEEP}", volumeMounts=[{"name": "data", "mountPath": "/data"}]), **(container or {})},
                   volumes=[{"name": "data", "emptyDir": volume or {}}], **spec)
        return made

    def test_the_pod_that_fills_the_disk_goes_with_its_volumes(self):
        self.config["evictionHard"]["nodefs.available"] = "20%"
        self.config["evictionPressureTransitionPeriod"] = "5s"
        self.node.apply(self.node.plugins)
        self.node.wait_ready()
        another, _ = self.run_pod(self.writer("another", "/bin/busybox dd if=/dev/zero of=/data/x bs=1M count=10"))
        before = {container.identity() for container in self.node.containers().values()}
        self.node.drop(self.writer("filler", "/bin/busybox dd if=/dev/zero of=/data/x bs=1M count=130"))
        status = self.wait_for_end("filler")
        self.assertRegex(status["message"], r"^The node was low on resource: ephemeral-storage\. Threshold quantity: 32Mi, available: \d+\w*\.")
        self.assertEqual({container.identity() for container in self.node.containers().values()}, before)
        filler = self.node.pods()["filler"]
        wait_for("its volume has gone", lambda: not os.path.exists(self.volume_folder(filler, "data")))
        self.assertTrue(os.path.exists(os.path.join(self.volume_folder(another, "data"), "x")))
        # Whoever comes while the disk is short waits, also with requests, but not for ever.
        self.node.drop(eater("later", 5, request="10Mi"))
        self.assertEqual(self.wait_for_end("later")["message"], "Pod was rejected: The node had condition: [DiskPressure].")
        wait_for("it is let in", lambda: self.node.pods()["later"].is_running(), 20)

    def test_what_is_written_over_an_image_and_to_a_log_counts(self):
        self.config["evictionHard"]["imagefs.available"] = "20%"
        self.node.apply(self.node.plugins)
        self.node.wait_ready()
        self.run_pod(self.writer("small", "echo hi"))
        self.node.drop(pod("over", shell("one", f"/bin/busybox dd if=/dev/zero of=/x bs=1M count=130; {SLEEP}")))
        self.wait_for_end("over")
        self.assertTrue(self.node.pods()["small"].is_running())

    def test_the_pod_with_most_inodes_goes(self):
        self.config["evictionHard"]["nodefs.inodesFree"] = "30%"
        self.node.apply(self.node.plugins)
        self.node.wait_ready()
        self.run_pod(self.writer("few", "for i in 1 2 3 4 5 6 7 8 9; do : >/data/$i; done; /bin/busybox dd if=/dev/zero of=/data/x bs=1M count=30"))
        self.node.drop(self.writer("many", "i=0; while [ $i -lt 3500 ]; do : >/data/$i; i=$((i+1)); done 2>/dev/null"))
        status = self.wait_for_end("many")
        self.assertRegex(status["message"], r"^The node was low on resource: inodes\. Threshold quantity: 1200, available: \d+\.")
        self.assertTrue(self.node.pods()["few"].is_running())

    def test_limits_of_local_storage_are_kept(self):
        self.run_pod(self.writer("within", "/bin/busybox dd if=/dev/zero of=/data/x bs=1M count=8", volume={"sizeLimit": "10Mi"}))
        self.node.drop(self.writer("beyond", "/bin/busybox dd if=/dev/zero of=/data/x bs=1M count=15", volume={"sizeLimit": "10Mi"}))
        self.assertEqual(self.wait_for_end("beyond")["message"], 'Usage of EmptyDir volume "data" exceeds the limit "10Mi".')
        limits = {"resources": {"limits": {"ephemeral-storage": "10Mi"}}}
        self.node.drop(self.writer("whole", "/bin/busybox dd if=/dev/zero of=/data/x bs=1M count=15", container=limits))
        self.assertEqual(self.wait_for_end("whole")["message"], "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi.")
        two = pod("container", shell("one", f"/bin/busybox dd if=/dev/zero of=/x bs=1M count=15; {SLEEP}", **limits),
                  shell("two", SLEEP, resources={"limits": {"ephemeral-storage": "20Mi"}}))
        self.node.drop(two)
        self.assertEqual(self.wait_for_end("container")["message"], 'Container one exceeded its local ephemeral storage limit "10Mi".')
        self.assertTrue(self.node.pods()["within"].is_running())


class Processes(PressureCase):
    def test_the_pod_with_most_processes_goes(self):
        with open("/proc/sys/kernel/pid_max", encoding="ascii") as file:
            most = int(file.read())
        with open("/proc/sys/kernel/threads-max", encoding="ascii") as file:
            most = min(most, int(file.read()))
        with open("/proc/loadavg", encoding="ascii") as file:
            free = most - int(file.read().split()[3].split("/")[1])
        self.config["evictionHard"]["pid.available"] = str(free - 500)
        self.node.apply(self.node.plugins)
        self.node.wait_ready()
        fork = "i=0; while [ $i -lt %d ]; do sleep 1000 & i=$((i+1)); done; " + SLEEP
        self.run_pod(pod("few", shell("one", fork % 20)))
        self.node.drop(pod("many", shell("one", fork % 900)))
        status = self.wait_for_end("many")
        self.assertRegex(status["message"], rf"^The node was low on resource: pids\. Threshold quantity: {free - 500}, available: \d+\.$")
        self.assertTrue(self.node.pods()["few"].is_running())


if __name__ == "__main__":
    contained.main()
