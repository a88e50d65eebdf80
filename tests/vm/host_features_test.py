"""What pods get where the node has it: VLANs, SCTP, AppArmor and runc, on Debian 12 in a virtual machine (vm.py) whose kernel has them all."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

import contained
import pods
import vm

READY = "curl -sf --unix-socket /run/pintle/pintled.sock http://pintle/readyz"
BRIDGE_TEST = os.path.join(contained.build(), "cni/bridge/cni_bridge_test")
SLEEP = "trap 'exit 0' TERM; while :; do sleep 1; done"


def shell(name, script=SLEEP, **fields):
    return {**pods.container(name), "command": ["/bin/sh", "-c", script], "args": [], **fields}


class HostFeatures(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="pintle-vm-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        os.environ[contained.INSIDE] = cls.folder  # where the harness puts what it makes
        packages = os.path.join(cls.folder, "packages")
        subprocess.run(["cpack", "-G", "DEB", "-B", packages], cwd=contained.build(), check=True, stdout=subprocess.DEVNULL)
        package = os.path.join(cls.folder, "pintle.deb")
        shutil.move(next(os.path.join(packages, name) for name in os.listdir(packages) if name.startswith("pintle_")), package)
        cls.vm = vm.VirtualMachine(cls.folder, [package, pods.image_archive(), BRIDGE_TEST])
        cls.addClassCleanup(cls.vm.power_off)
        cls.vm.boot()
        cls.before = cls.links()
        cls.vm.run("dpkg -i /payload/pintle.deb", limit=120)
        cls.vm.wait("the node is ready", READY)
        cls.vm.run("pintle image load /payload/workload.tar")

    def tearDown(self):
        self.vm.run("rm -f /etc/pintle/manifests/*.json")
        self.vm.wait("all pods have ended", "[ \"$(pintle pod ls -o json | tr -d ' \\n')\" = '{\"pods\":[]}' ]", limit=120)

    @classmethod
    def links(cls):
        return sorted(cls.vm.run("ls /sys/class/net").split())

    def write(self, path, document):
        self.vm.run(f"cat >{path} <<'END'\n{json.dumps(document)}\nEND")

    def apply(self, **plugins):
        """The profile standalone with configurations of plugins."""
        self.write("/etc/pintle/profiles/features.yaml", {
            "apiVersion": "pintle.io/v1", "kind": "NodeProfile", "metadata": {"name": "features"},
            "spec": {"extends": ["standalone"], "plugins": {name.replace("_", "-"): {"config": config} for name, config in plugins.items()}}})
        self.vm.run("pintle profile apply features", limit=60)
        self.vm.wait("the node is ready", READY)

    def drop(self, manifest):
        self.write(f"/etc/pintle/manifests/{manifest['metadata']['name']}.json", manifest)

    def run_pod(self, manifest):
        """Waits until it runs; its address and the process ids of its containers on the node, by name."""
        self.drop(manifest)
        status = self.wait_for(manifest["metadata"]["name"], lambda status: status.get("phase") == "Running"
                               and all(one["ready"] for one in status["containerStatuses"]))
        return status["podIP"], {one["name"]: self.pid_of(one["containerID"]) for one in status["containerStatuses"]}

    def wait_for(self, name, predicate, limit=60):
        """The pod's status, as soon as it is so."""
        end = time.monotonic() + limit * vm.SLOWNESS
        status = {}
        while not (status and predicate(status)):
            self.assertLess(time.monotonic(), end, f"{name}: {status}")
            code, told = self.vm.run(f"pintle pod describe {name} -o json", check=False)
            status = json.loads(told)["status"] if code == 0 else {}
        return status

    def pid_of(self, container):
        identity = container.rpartition("/")[2]
        return int(self.vm.run(f"cat $(find /sys/fs/cgroup -type d -name '*{identity}*' | head -n 1)/cgroup.procs").split()[0])

    def reaches(self, pid, address):
        return self.vm.run(f"nsenter -n -t {pid} busybox ping -c 1 -W 5 {address}", check=False)[0] == 0

    # ---- The network -------------------------------------------------------------------------------------------------------------

    def test_the_bridge_with_vlans_and_sctp(self):
        output = self.vm.run("/payload/cni_bridge_test --gtest_filter='*Vlan*:*Sctp*' 2>&1", limit=60)
        self.assertRegex(output, r"\[       OK \] WithVlanTest\.")
        self.assertIn("[       OK ] HostPortsTest.SctpIsServed", output)
        self.assertNotIn("SKIPPED ] WithVlanTest", output)

    def test_pods_are_in_the_vlan_of_the_profile(self):
        self.apply(network_bridge={"vlan": 100, "podCIDR": "10.90.0.0/24"})
        one, pids = self.run_pod(pods.pod("one", shell("c")))
        two, _ = self.run_pod(pods.pod("two", shell("c")))
        self.assertTrue(self.reaches(pids["c"], two))
        self.assertTrue(self.reaches(pids["c"], "10.90.0.1"), "the gateway")
        self.assertIn("100 PVID Egress Untagged", self.vm.run("bridge vlan show"))
        # The pods of before stay where they are, those that come are elsewhere.
        self.apply(network_bridge={"vlan": 200, "podCIDR": "10.91.0.0/24"})
        other, others = self.run_pod(pods.pod("other", shell("c")))
        self.assertTrue(other.startswith("10.91.0."), other)
        self.assertTrue(self.reaches(others["c"], "10.91.0.1"))
        self.assertTrue(self.reaches(pids["c"], two))
        self.assertFalse(self.reaches(pids["c"], other))
        self.assertFalse(self.reaches(others["c"], one))
        self.vm.run(f"nsenter -n -t {others['c']} ip address add 10.90.0.99/24 dev eth0")
        self.assertFalse(self.reaches(pids["c"], "10.90.0.99"), "nor by an address of the first VLAN's")
        # A port of the administrator's with the first VLAN's tag.
        self.vm.run("ip netns add wire; ip link add trunk type veth peer name eth0 netns wire; ip link set trunk master pintle0 up; bridge vlan add dev trunk vid 100;"
                    "ip -n wire link set eth0 up; ip -n wire link add link eth0 name eth0.100 type vlan id 100;"
                    "ip -n wire link set eth0.100 up; ip -n wire address add 10.90.0.98/24 dev eth0.100")
        self.assertTrue(self.reaches(pids["c"], "10.90.0.98"))
        self.assertFalse(self.reaches(others["c"], "10.90.0.98"))
        self.vm.run("ip link del trunk; ip netns del wire")
        self.vm.run("systemctl restart pintled")
        self.vm.wait("the node is ready", READY)
        self.vm.run("bridge vlan del dev pintle0 vid 100 self; ip link del pintle0.200")
        self.vm.wait("what was taken away comes back", "bridge vlan show dev pintle0 | grep -qw 100 && ip address show dev pintle0.200 | grep -q 10.91.0.1")
        self.assertTrue(self.reaches(pids["c"], "10.90.0.1"))
        self.assertTrue(self.reaches(others["c"], "10.91.0.1"))
        self.tearDown()
        self.apply()
        self.vm.wait("nothing of it is left", "! ls /sys/class/net | grep -q 'pintle0\\.' && ! bridge vlan show | grep -qwE '100|200'")


if __name__ == "__main__":
    if not shutil.which("qemu-system-x86_64") or not shutil.which("mmdebstrap"):
        print("host_features_test is skipped: it needs qemu-system-x86 and mmdebstrap")
        sys.exit(77)
    vm.make_image()
    unittest.main(verbosity=2)
