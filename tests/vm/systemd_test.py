"""The package on an ordinary host: Debian 12 with systemd and cgroup v2, in a virtual machine (vm.py).

Twenty pods run on while the service is restarted, stopped and started, and its package upgraded; all come back after a cut of the mains.
Limits of memory and processors hold.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

import contained
import pods
import vm

PODS = 20
IDENTITIES = """
for pid in $(cat $(find /sys/fs/cgroup -path '*pintle*' -name cgroup.procs -o -path '*kubepods*' -name cgroup.procs) | sort -un); do
  command=$(tr '\\0' ' ' </proc/$pid/cmdline)
  case $command in /bin/workload*) echo "$pid $(awk '{print $22}' /proc/$pid/stat) $(readlink /proc/$pid/ns/net)";; esac
done"""


def upgraded(package, folder):
    """The same package under a higher version."""
    tree = os.path.join(folder, "upgrade")
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = os.path.join(tree, "DEBIAN/control")
    with open(control, encoding="utf-8") as file:
        text = file.read()
    with open(control, "w", encoding="utf-8") as file:
        file.write(text.replace("Version: ", "Version: 1:", 1))
    path = os.path.join(folder, "upgrade.deb")
    subprocess.run(["dpkg-deb", "-b", "--root-owner-group", "-Znone", tree, path], check=True, stdout=subprocess.DEVNULL)
    return path


class OnSystemd(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="pintle-vm-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        os.environ[contained.INSIDE] = cls.folder  # where the harness puts what it makes
        build = contained.build()
        subprocess.run(["cpack", "-G", "DEB", "-B", os.path.join(cls.folder, "packages")], cwd=build, check=True, stdout=subprocess.DEVNULL)
        package = next(os.path.join(cls.folder, "packages", name) for name in os.listdir(os.path.join(cls.folder, "packages"))
                       if name.startswith("pintle_"))
        shutil.move(package, os.path.join(cls.folder, "pintle.deb"))
        manifests = [pods.ticking(f"pod-{index}", 1000) for index in range(PODS)]
        limited = pods.pod("limited", pods.container("spins", "spin"))
        limited["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "100m", "memory": "32Mi"}}
        greedy = pods.pod("greedy", pods.container("eats", "eat", 256), restart="Never")
        greedy["spec"]["containers"][0]["resources"] = {"limits": {"memory": "32Mi"}}
        for manifest in [*manifests, limited, greedy]:
            with open(os.path.join(cls.folder, manifest["metadata"]["name"] + ".json"), "w", encoding="utf-8") as file:
                json.dump(manifest, file)
        payload = [os.path.join(cls.folder, name) for name in os.listdir(cls.folder) if name.endswith((".json", ".deb"))]
        payload += [pods.image_archive(), upgraded(os.path.join(cls.folder, "pintle.deb"), cls.folder)]
        cls.vm = vm.VirtualMachine(cls.folder, payload)
        cls.addClassCleanup(cls.vm.power_off)
        cls.vm.boot()
        cls.vm.run("dpkg -i /payload/pintle.deb", limit=120)
        cls.vm.wait("the node is ready", "curl -sf --unix-socket /run/pintle/pintled.sock http://pintle/readyz")
        cls.vm.run("pintle image load /payload/workload.tar")
        cls.vm.run("cp /payload/pod-*.json /etc/pintle/manifests/")

    def running(self):
        return json.loads(self.vm.run("pintle pod ls -o json"))["pods"]

    def wait_for_pods(self, count=PODS):
        def are_up():
            found = self.running()
            return len(found) == count and all(pod["phase"] == "Running" and pod["ready"] == pod["containers"] for pod in found)
        end = time.monotonic() + 60 * vm.SLOWNESS
        while not are_up():
            self.assertLess(time.monotonic(), end, self.running())
            time.sleep(1)

    def identities(self):
        found = sorted(self.vm.run(IDENTITIES).split("\n"))
        self.assertEqual(len([line for line in found if line]), 2 * PODS, found)
        return found

    def test_1_pods_are_untouched_by_restart_stop_start_and_upgrade(self):
        self.wait_for_pods()
        self.assertEqual(self.vm.run("systemctl is-active pintled").strip(), "active")
        before = self.identities()
        main = self.vm.run("systemctl show -P MainPID pintled").strip()
        for command in ("systemctl restart pintled", "systemctl stop pintled; systemctl start pintled", "dpkg -i /payload/upgrade.deb"):
            with self.subTest(command):
                self.vm.run(command, limit=120)
                self.vm.wait("the node is ready", "curl -sf --unix-socket /run/pintle/pintled.sock http://pintle/readyz")
                self.wait_for_pods()
                self.assertEqual(self.identities(), before)
        self.assertNotEqual(self.vm.run("systemctl show -P MainPID pintled").strip(), main)
        self.assertIn("1:", self.vm.run("dpkg-query -W -f '${Version}' pintle"))
        self.assertEqual(self.vm.run("systemctl --failed --no-legend").strip(), "")

    def test_2_all_pods_are_back_after_a_power_cut(self):
        self.wait_for_pods()
        self.vm.run("sync; touch /run/was-here")
        self.vm.power_off()
        self.vm.boot()
        self.assertEqual(self.vm.run("ls /run/was-here 2>/dev/null || echo gone").strip(), "gone")
        self.vm.wait("the node is ready", "curl -sf --unix-socket /run/pintle/pintled.sock http://pintle/readyz")
        self.wait_for_pods()
        self.identities()

    def test_3_limits_of_memory_and_processors_hold(self):
        self.vm.run("cp /payload/limited.json /payload/greedy.json /etc/pintle/manifests/")
        killed = self.vm.wait("the greedy pod is killed", "pintle pod describe greedy | grep OOMKilled")
        self.assertIn("OOMKilled", killed)
        self.vm.wait("the limited pod runs", "pintle pod ls | grep -q 'limited.*Running'")
        used = self.vm.run("""
            pid=$(pgrep -f '^/bin/workload spin'); group=/sys/fs/cgroup$(cut -d: -f3 /proc/$pid/cgroup)
            cat $group/memory.max; cat $group/cpu.max
            usage() { awk '$1 == "usage_usec" {print $2}' $group/cpu.stat; }
            a=$(usage); s=$(date +%s%N); sleep 20; b=$(usage); e=$(date +%s%N); echo $(( (b - a) * 100000 / (e - s) ))""").split("\n")
        self.assertEqual(used[0], str(32 << 20))
        self.assertEqual(used[1], "10000 100000")
        self.assertLess(int(used[2]), 15, "percent of a processor")
        self.assertGreater(int(used[2]), 3)


if __name__ == "__main__":
    if not shutil.which("qemu-system-x86_64") or not shutil.which("mmdebstrap"):
        print("systemd_test is skipped: it needs qemu-system-x86 and mmdebstrap")
        sys.exit(77)
    vm.make_image()
    unittest.main(verbosity=2)
