"""An hour of pods that come and go at five a second, while everything that can fail does.

Three kinds of pods. *Steady* ones must not notice anything: same processes, same namespaces, same addresses, no log line lost or
doubled. *Victims* have their containers and monitors killed, and must run again each time. The *churn* are pods of several shapes
that come, must get where their kind gets (running or succeeded), and go; some go before they are there, some are edited.

Faults: the daemon is killed and stopped (in every other lap, so that its memory is seen to grow in those between), monitors and
containers are killed, the disk with the state is full for some seconds, all nftables rules are flushed.

After each lap the churn pauses, and what is left is counted: with the same pods there must be the same mounts, links, rules,
cgroups, processes, descriptors, attachments, sandboxes; files and memory within narrow bounds. In the end nothing is left at all.

PINTLE_SOAK_SECONDS sets how long (3600), PINTLE_TEST_SEED repeats the random choices.
"""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time

import contained
import machine
import pods
import processes
from admin import AdminError
from node import NETWORK, RUNTIME, NodeTest, Timeout, wait_for

SECONDS = float(os.environ.get("PINTLE_SOAK_SECONDS", "3600"))
LAPS = 6
RATE = 5.0          # pods a second
STEADY = 8
VICTIMS = 6
ARRIVES_WITHIN = 90  # seconds until a pod of the churn is where its kind gets, faults and all
HOST_PORT = 18090
NODE_ADDRESS = "10.213.0.1"


def shell(name, script, **fields):
    return {**pods.container(name), "command": ["/bin/sh", "-c", script], "args": [], **fields}


def plain(name):
    return pods.pod(name, pods.container("one", "sleep"), pods.container("two", "sleep"), grace=0)


def task(name):
    return pods.pod(name, shell("one", "echo done"), grace=0, restart="Never")


def rich(name, number):
    """A pod with a bit of everything that leaves something on the node."""
    serving = {**pods.container("one", "serve", 8080), "ports": [{"containerPort": 8080, "hostPort": 20000 + number % 20000}],
               "volumeMounts": [{"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"},
                                {"name": "about", "mountPath": "/about"}],
               "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
               "lifecycle": {"preStop": {"exec": {"command": ["/bin/true"]}}},
               "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}}}
    made = pods.pod(name, serving, grace=1)
    made["metadata"]["labels"] = {"kind": "rich"}
    made["spec"]["initContainers"] = [shell("first", "echo first >/disk/first", volumeMounts=[{"name": "disk", "mountPath": "/disk"}])]
    made["spec"]["volumes"] = [{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}},
                               {"name": "about", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]
    return made


class Visitor:
    """One pod of the churn."""

    def __init__(self, name, goal, now, stays, impatient=False):
        self.name, self.goal, self.came, self.stays = name, goal, now, stays
        self.impatient = impatient  # taken without having arrived
        self.arrived = None
        self.edit = None            # the manifest that follows the first

    def is_there(self, pod):
        return pod.is_running() if self.goal == "Running" else pod.phase == self.goal


class Soak(NodeTest):
    def setUp(self):
        seed = int(os.environ.get("PINTLE_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
        self.random = random.Random(seed)
        print(f"PINTLE_TEST_SEED={seed}", flush=True)
        self.visitors, self.counted = {}, {}
        self.number = 0
        self.churned_for = 0.0
        super().setUp()

    def prepare(self):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m,mode=700", "none", self.node.state], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", self.node.state], check=False, stderr=subprocess.DEVNULL)
        self.root = f"/kubepods-{os.getpid()}-{os.path.basename(self.node.root)}"
        self.node.plugins["network-bridge"]["config"]["podCIDR"] = "10.213.0.0/22"
        self.node.plugins["node-agent"]["config"].update(
            cgroupRoot=self.root, containerLogs={"maxSize": "200k", "everySeconds": 5},
            restartBackoff={"initialSeconds": 0.05, "maximumSeconds": 1},
            # A disk that is full for some seconds is a fault to live through here; what is evicted under pressure has tests of its own.
            evictionHard={signal: "0%" for signal in ("nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")})

    def tearDown(self):
        """PINTLE_TEST_LOGS: a folder for the daemon's log, which is long."""
        if folder := os.environ.get("PINTLE_TEST_LOGS"):
            shutil.copy(self.node.log, os.path.join(folder, f"soak-{os.getppid()}.log"))
        ballast = os.path.join(self.node.state, "ballast")
        if os.path.exists(ballast):
            os.unlink(ballast)
        super().tearDown()

    def read_logs(self):
        for reader in self.readers:
            reader.catch_up()

    def count(self, what, times=1):
        self.counted[what] = self.counted.get(what, 0) + times

    # ---- The three kinds of pods ----

    def start_steady(self):
        for index in range(STEADY - 1):
            self.node.drop(pods.ticking(f"steady-{index}", 100))
        server = {**pods.container("one", "serve", 8080), "ports": [{"containerPort": 8080, "hostPort": HOST_PORT}]}
        self.node.drop(pods.pod("steady-server", server, pods.container("two", "ticks", 100)))
        for index in range(VICTIMS):
            self.node.drop(pods.pod(f"victim-{index}", pods.container("one", "sleep"), grace=0))
        running = self.node.wait_for_pods(STEADY + VICTIMS)
        self.steady_sandboxes = {pod.sandbox for name, pod in running.items() if name.startswith("steady")}
        self.readers = [pods.LogReader(self.node.log_folder(pod, name)) for pod in running.values() if pod.name.startswith("steady")
                        for name in ("one", "two") if (pod.name, name) != ("steady-server", "one")]
        self.expected = self.steady_picture()
        self.assertEqual(len(self.expected[0]), 2 * STEADY)

    def steady_picture(self):
        return ({one.identity() for one in self.node.containers().values() if one.sandbox in self.steady_sandboxes},
                {sandbox: tuple(found) for sandbox, found in self.node.addresses().items() if sandbox in self.steady_sandboxes})

    def check_steady(self):
        self.assertEqual(self.steady_picture(), self.expected, "pods that nobody touched have changed")
        goals = [(reader, reader.catch_up() + 1) for reader in self.readers]
        try:
            wait_for("all steady containers write on", lambda: all([reader.catch_up() >= goal for reader, goal in goals]), 20)
        except Timeout as error:
            raise AssertionError(f"{error}: {[reader for reader, goal in goals if reader.expected < goal]}") from None
        self.assertEqual([problem for reader in self.readers for problem in reader.problems], [])

    def come(self, now):
        self.number += 1
        name = f"churn-{self.number}"
        stays = self.random.uniform(0, 2)
        kind = self.random.choices(("plain", "task", "rich", "impatient", "edited"), (5, 3, 3, 2, 1))[0]
        self.count(kind)
        visitor = Visitor(name, "Succeeded" if kind == "task" else "Running", now, stays, kind == "impatient")
        self.node.drop(task(name) if kind == "task" else rich(name, self.number) if kind == "rich" else plain(name))
        if visitor.impatient:
            visitor.stays = self.random.uniform(0, 0.4)
        if kind == "edited":
            visitor.edit = plain(name)
            visitor.edit["metadata"]["labels"] = {"edited": "yes"}
        self.visitors[name] = visitor

    def look_after_visitors(self, now):
        """One look at all pods: who arrived stays a while, is edited or goes."""
        present = self.node.pods()
        for name, visitor in list(self.visitors.items()):
            pod = present.get(name)
            if visitor.arrived is None and (visitor.impatient or (pod and visitor.is_there(pod))):
                visitor.arrived = visitor.came if visitor.impatient else now
                self.slowest = max(self.slowest, visitor.arrived - visitor.came)
            if visitor.arrived is None:
                self.assertLess(now - visitor.came, ARRIVES_WITHIN, f"{name} is not {visitor.goal}: {pod}\n{self.told_of(name)}")
            elif now - visitor.arrived >= visitor.stays:
                if visitor.edit:
                    self.node.drop(visitor.edit)
                    visitor.edit, visitor.came, visitor.arrived = None, now, None
                else:
                    self.node.take(name)
                    del self.visitors[name]
                    self.count("gone")

    def told_of(self, name):
        """All that the log says about a pod."""
        with open(self.node.log, encoding="utf-8", errors="replace") as file:
            return "".join(line for line in file if re.search(rf"\b{name}\b", line))

    # ---- Faults ----

    def victim(self):
        """A running container of a victim; None while none runs."""
        sandboxes = {pod.sandbox for name, pod in self.node.pods().items() if name.startswith("victim")}
        found = [one for one in self.node.containers().values() if one.sandbox in sandboxes and one.pid and one.monitor]
        return self.random.choice(found) if found else None

    def fault_container(self):
        victim = self.victim()
        if victim:
            os.kill(victim.pid, signal.SIGKILL)

    def fault_monitor(self):
        victim = self.victim()
        if victim:
            os.kill(victim.monitor, signal.SIGKILL)

    def fault_rules(self):
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        wait_for("the host port leads into its pod again", self.is_served, 20)

    def is_served(self):
        try:
            with socket.create_connection((NODE_ADDRESS, HOST_PORT), timeout=2) as connection:
                connection.sendall(b"hello\n")
                return connection.recv(100) == b"hello\n"
        except OSError:
            return False

    def fault_disk(self):
        """Full for some seconds, in which pods come and go on."""
        ballast = os.path.join(self.node.state, "ballast")
        with open(ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
        self.disk_until = time.monotonic() + self.random.uniform(1, 4)

    def end_full_disk(self):
        os.unlink(os.path.join(self.node.state, "ballast"))
        self.disk_until = None

    def fault_daemon(self):
        if self.random.random() < 0.3:
            self.node.stop()
            self.assertEqual(self.node.process.returncode, 0)
        else:
            self.node.kill()
        while self.random.random() < 0.2:  # killed again while it comes up
            self.node.launch()
            time.sleep(self.random.uniform(0, 0.2))
            self.node.kill()
        if self.disk_until:
            self.end_full_disk()
        self.node.start()

    # ---- What is there at rest ----

    def rest(self):
        """No churn, no fault: until only steady pods and victims are there, and run."""
        if self.disk_until:
            self.end_full_disk()
        end = time.monotonic() + ARRIVES_WITHIN
        while self.visitors:
            self.assertLess(time.monotonic(), end + ARRIVES_WITHIN, f"{len(self.visitors)} pods do not go")
            self.look_after_visitors(time.monotonic())
            self.read_logs()
            time.sleep(0.05)
        self.node.wait_for_pods(STEADY + VICTIMS, ARRIVES_WITHIN)
        self.check_steady()
        wait_for("the runtime has no more than they need", lambda: len(self.node.containers()) == 2 * STEADY + VICTIMS, 30)
        wait_for("the engine has no other sandboxes", lambda: self.sandboxes() == STEADY + VICTIMS, 30)

    def sandboxes(self):
        return len(self.node.admin.call("runtime.v1.RuntimeService", 6).get(1, []))

    @staticmethod
    def files_below(folder):
        return sum(len(names) for _, _, names in os.walk(folder))

    @staticmethod
    def monitors():
        return len([command for command in processes.alive().values() if os.path.basename(command.split()[0]) == "conmon"])

    def cgroups(self):
        return len([folder for folder in contained.cgroup_folders() if self.root in folder])

    def sample(self, lap):
        """What is counted after each lap. The kernel and the daemon get some time to take away what goes in the background."""
        # Up to 32 do work that blocks; those that a burst has brought go within twenty seconds.
        wait_for("threads that are not needed have gone", lambda: len(os.listdir(f"/proc/{self.node.pid}/task")) <= 24, 40)
        for _ in range(20):
            exact = {
                # A killed monitor is not replaced while its container runs on.
                "processes": len(processes.alive()) - self.monitors(),
                "mounts": len((processes.read("/proc/self/mountinfo") or "").splitlines()),
                "links": len(socket.if_nameindex()),
                "rules": len(subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout.splitlines()),
                "cgroups": self.cgroups(),
                "attachments": sum(len(self.node.admin.call(NETWORK, 5, provider=key).get(1, [])) for key in self.node.providers(NETWORK)),
                "namespaces": len(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else 0,
            }
            if not self.first or exact == self.first[0]:
                break
            time.sleep(0.5)
        loose = {
            "monitors": self.monitors(),
            "descriptors": len(os.listdir(f"/proc/{self.node.pid}/fd")),
            "threads": len(os.listdir(f"/proc/{self.node.pid}/task")),
            "state files": self.files_below(self.node.state),
            "run files": self.files_below(self.node.run),
            "log files": self.files_below(self.node.logs),
            "containers known": sum(len(self.node.admin.call(RUNTIME, 6, provider=key).get(1, [])) for key in self.node.providers(RUNTIME)),
            "PSS MiB": round(processes.proportional_set_kib(self.node.pid) / 1024, 1),
            "allocated MiB": round(processes.proportional_set_kib(self.node.pid, "Pss_Anon") / 1024, 1),
        }
        print(f"lap {lap}: {self.number} pods came; {exact} {loose}; slowest arrival {self.slowest:.1f} s", flush=True)
        self.slowest = 0.0
        return exact, loose

    # What may differ between two samples with the same pods: victims' ended containers and their logs, connections under way.
    SLACK = {"monitors": VICTIMS, "descriptors": 6, "state files": 15 * VICTIMS, "run files": 10 * VICTIMS, "log files": 10 * VICTIMS + 5 * 2 * STEADY,
             "containers known": 3 * VICTIMS}

    def compare(self, found):
        self.assertEqual(found[0], self.first[0], "something of gone pods is left, or of present ones is missing")
        for what, slack in self.SLACK.items():
            self.assertLessEqual(found[1][what], self.first[1][what] + slack, f"{what} grow: {self.first[1]} -> {found[1]}")

    # ---- The hour ----

    def churn(self, seconds, faults):
        """Pods come and go for so long; each of `faults` is (function, mean seconds between two)."""
        now = begun = time.monotonic()
        next_pod = now
        due = {fault: now + self.random.expovariate(1 / mean) for fault, mean in faults.items()}
        while now - begun < seconds:
            while next_pod <= now:
                self.come(now)
                next_pod += 1 / RATE
            for fault, mean in faults.items():
                if now >= due[fault]:
                    self.count(fault.__name__.replace("_", " "))
                    fault()
                    ended = time.monotonic()
                    due[fault] = ended + self.random.expovariate(1 / mean)
                    if ended - now > 10:
                        print(f"{fault.__name__} took {ended - now:.0f} s, {len(self.visitors)} pods wait", flush=True)
            if self.disk_until and now >= self.disk_until:
                self.end_full_disk()
            try:
                self.look_after_visitors(now)
            except (AdminError, OSError) as error:
                self.assertTrue(self.node.is_running(), f"pintled ended by itself ({error})\n{self.node.log_tail()}")
                self.count("unanswered looks")
            self.read_logs()
            time.sleep(max(0.0, min(next_pod - time.monotonic(), 0.2)))
            now = time.monotonic()
        self.churned_for += now - begun

    def test_nothing_leaks_while_pods_come_and_go_and_all_fails(self):
        self.first, self.disk_until, self.slowest = None, None, 0.0
        self.start_steady()
        soft = {self.fault_container: 4, self.fault_monitor: 7, self.fault_rules: 15, self.fault_disk: 45}
        hard = {**soft, self.fault_daemon: 12}
        self.churn(min(60, SECONDS / 10), soft)
        self.rest()
        self.first = self.sample("warm-up")
        for lap in range(LAPS):
            self.churn(SECONDS / LAPS, hard if lap % 2 else soft)
            self.rest()
            former_memory = self.first[1]["allocated MiB"]
            found = self.sample(lap)
            self.compare(found)
            if lap == 0:
                self.assertLessEqual(found[1]["allocated MiB"], former_memory + 4, "memory grows within one life of the daemon")
            self.assertLessEqual(found[1]["allocated MiB"], former_memory + 8, "memory grows")
        rate = self.number / self.churned_for
        print(f"{self.number} pods in {self.churned_for:.0f} s of churn ({rate:.2f}/s), {self.counted}", flush=True)
        self.assertGreater(rate, 0.95 * RATE)
        self.node.remove_pods(120)
        wait_for("the engine has no sandboxes", lambda: not self.sandboxes(), 30)
        left = self.files_below(self.node.logs)
        self.assertEqual(left, 0, "logs of gone pods")
        self.node.stop()
        self.assertEqual(machine.leftovers(self.before, 10), [f"mount left behind: {self.node.state} (tmpfs)"])
        self.umount_state()

    def umount_state(self):
        subprocess.run(["umount", self.node.state], check=True)


if __name__ == "__main__":
    contained.main()
