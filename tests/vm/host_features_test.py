"""What pods get where the node has it: VLANs, SCTP, AppArmor and runc, on Debian 12 in a virtual machine (vm.py) whose kernel has them all."""

import json
import os
import re
import shutil
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
        package = vm.make_package(cls.folder)
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

    # ---- AppArmor ----------------------------------------------------------------------------------------------------------------

    TIGHT = """profile pintle-test-tight flags=(attach_disconnected) {
  file,
  network,
  capability,
  signal,
  deny /etc/secret rw,
}
"""

    def confined(self, pid):
        return self.vm.run(f"cat /proc/{pid}/attr/current").strip()

    def said(self, name, pattern):
        return self.vm.wait(f"{name} says {pattern}", f"pintle pod logs {name} | grep -E '{pattern}'")

    def armored(self, name, script=SLEEP, annotation="", of_pod=None, **profile):
        """A pod whose container says what it is confined by."""
        context = {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}, **({"appArmorProfile": profile} if profile else {})}}
        made = pods.pod(name, shell("c", f"echo by $(cat /proc/self/attr/current); {script}", **context))
        if annotation:
            made["metadata"]["annotations"] = {"container.apparmor.security.beta.kubernetes.io/c": annotation}
        if of_pod:
            made["spec"]["securityContext"] = {"appArmorProfile": of_pod}
        return made

    MOUNTS = "busybox mount -t tmpfs none /tmp && echo mounted || echo not mounted; " + SLEEP

    def test_containers_run_in_the_default_profile(self):
        self.assertIn("pintle-default (enforce)", self.vm.run("cat /sys/kernel/security/apparmor/profiles"))
        for name, manifest in (("unasked", self.armored("unasked", self.MOUNTS)), ("asked", self.armored("asked", self.MOUNTS, type="RuntimeDefault")),
                               ("annotated", self.armored("annotated", self.MOUNTS, annotation="runtime/default"))):
            _, pids = self.run_pod(manifest)
            self.assertEqual(self.confined(pids["c"]), "pintle-default (enforce)", name)
            self.said(name, "by pintle-default")
            self.said(name, "^not mounted")
            # Its own world goes on: signals, files, and what is run in it.
            self.assertIn("pintle-default", self.vm.run(f"pintle pod exec {name} -- cat /proc/self/attr/current"))
        privileged = pods.pod("privileged", shell("c", securityContext={"privileged": True}))
        _, pids = self.run_pod(privileged)
        self.assertEqual(self.confined(pids["c"]), "unconfined")
        self.vm.run("rm /etc/pintle/manifests/asked.json")
        self.vm.wait("a confined pod ends by TERM", "! pintle pod ls | grep -qw asked", limit=30)
        # What removes profiles that no file knows takes ours too; the next container has it again.
        self.vm.run("echo -n pintle-default >/sys/kernel/security/apparmor/.remove")
        self.assertNotIn("pintle-default", self.vm.run("cat /sys/kernel/security/apparmor/profiles"))
        _, pids = self.run_pod(self.armored("again"))
        self.assertEqual(self.confined(pids["c"]), "pintle-default (enforce)")

    def test_a_profile_of_the_node(self):
        self.vm.run(f"cat >/tmp/tight <<'END'\n{self.TIGHT}END\napparmor_parser --replace /tmp/tight")
        tries = "echo new >/etc/secret && echo written || echo denied; echo x >/etc/other && echo other written; " + SLEEP
        for name, made in (("by-field", self.armored("by-field", tries, type="Localhost", localhostProfile="pintle-test-tight")),
                           ("by-annotation", self.armored("by-annotation", tries, annotation="localhost/pintle-test-tight")),
                           ("by-pod", self.armored("by-pod", tries, of_pod={"type": "Localhost", "localhostProfile": "pintle-test-tight"}))):
            _, pids = self.run_pod(made)
            self.assertEqual(self.confined(pids["c"]), "pintle-test-tight (enforce)", name)
            self.said(name, "by pintle-test-tight")
            self.said(name, "denied")
            self.said(name, "other written")
        _, pids = self.run_pod(self.armored("free", tries, type="Unconfined", of_pod={"type": "Localhost", "localhostProfile": "pintle-test-tight"}))
        self.assertEqual(self.confined(pids["c"]), "unconfined", "the container's field counts before the pod's")
        self.said("free", "^written")

    def test_unconfined_containers_may_what_their_capabilities_allow(self):
        for name, made in (("unconfined", self.armored("unconfined", self.MOUNTS, type="Unconfined")),
                           ("unconfined-too", self.armored("unconfined-too", self.MOUNTS, annotation="unconfined"))):
            _, pids = self.run_pod(made)
            self.assertEqual(self.confined(pids["c"]), "unconfined", name)
            self.said(name, "^mounted")
            self.assertNotIn("not mounted", self.vm.run(f"pintle pod logs {name}"))

    def test_a_profile_that_is_not_loaded_is_refused(self):
        self.drop(self.armored("missing", type="Localhost", localhostProfile="nobody-loaded-it"))
        status = self.wait_for("missing", lambda status: status["containerStatuses"][0].get("state", {}).get("waiting", {}).get("message"))
        waiting = status["containerStatuses"][0]["state"]["waiting"]
        self.assertEqual(status["phase"], "Pending")
        self.assertEqual(waiting["reason"], "CreateContainerError")
        self.assertIn("AppArmor profile 'nobody-loaded-it' is not loaded on this node: load it with apparmor_parser", waiting["message"])
        self.vm.run("echo 'profile nobody-loaded-it flags=(attach_disconnected) { file, signal, network, capability, }' | apparmor_parser --replace")
        self.wait_for("missing", lambda status: status["phase"] == "Running", limit=120)
        self.said("missing", "by nobody-loaded-it")

    # ---- Other protocols, other runtimes --------------------------------------------------------------------------------------

    def test_a_host_port_of_sctp_leads_into_the_pod(self):
        self.vm.run("modprobe sctp")
        served = pods.container("c", "serve-sctp", 9899)
        served["ports"] = [{"containerPort": 9899, "hostPort": 3868, "protocol": "SCTP"}]
        address, _ = self.run_pod(pods.pod("served", served))
        self.vm.run("ip link add outer type dummy; ip address add 192.0.2.1/24 dev outer; ip link set outer up")
        self.addCleanup(self.vm.run, "ip link del outer")
        talk = "import os, socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP); s.settimeout(50); " \
               "failed = s.connect_ex((sys.argv[1], int(sys.argv[2]))); failed or s.send(b'hello'); " \
               "print(os.strerror(failed) if failed else s.recv(9).decode())"
        for to, port in ((address, 9899), ("192.0.2.1", 3868)):
            self.assertEqual(self.vm.run(f'python3 -c "{talk}" {to} {port}').strip(), "hello", f"{to}:{port}")

    def test_runc_under_systemd_keeps_limits_and_leaves_nothing(self):
        self.apply(runtime_oci={"runtime": "runc"}, node_agent={"systemReserved": {"memory": "512Mi", "cpu": "200m", "pid": "1000"}})
        limited = shell("c", resources={"limits": {"cpu": "500m", "memory": "64Mi"}})
        self.drop(pods.pod("limited", limited))
        status = self.wait_for("limited", lambda status: status.get("phase") == "Running")
        identity = status["containerStatuses"][0]["containerID"]
        scope = f"pintle-{identity.rpartition('/')[2]}.scope"
        pid = self.pid_of(identity)
        self.assertIn("runc", self.vm.run("pintle status; pintle plugin describe runtime-oci 2>/dev/null; journalctl -u pintled --no-pager | grep 'OCI runtime found'"))
        self.assertEqual(self.confined(pid), "pintle-default (enforce)")
        told = self.vm.run(f"systemctl is-active {scope}; group=/sys/fs/cgroup$(cut -d: -f3 /proc/{pid}/cgroup); basename $group;"
                           "cat $group/memory.max $group/cpu.max; head -n 1 $group/../memory.max; cat $group/../cpu.max").split()
        self.assertEqual(told, ["active", scope, str(64 << 20), "50000", "100000", str(64 << 20), "50000", "100000"])
        # All pods together get what is not reserved, in the kernel and by systemd, which does not take it away.
        total = int(re.search(r"MemTotal:\s+(\d+)", self.vm.run("cat /proc/meminfo"))[1]) << 10
        limits = "cat /sys/fs/cgroup/kubepods.slice/memory.max /sys/fs/cgroup/kubepods.slice/pids.max /sys/fs/cgroup/kubepods.slice/cpu.weight"
        memory, processes, weight = self.vm.run(limits).split()
        self.assertEqual(int(memory), total - (512 << 20))
        self.assertEqual(int(self.vm.run("systemctl show -P MemoryMax kubepods.slice")), int(memory))
        self.assertEqual(int(self.vm.run("systemctl show -P TasksMax kubepods.slice")), int(processes))
        self.vm.run("systemctl daemon-reload; systemctl set-property --runtime kubepods.slice MemoryLow=1M")
        self.vm.wait("systemd has written to the cgroup", "grep -qx 1048576 /sys/fs/cgroup/kubepods.slice/memory.low")
        self.assertEqual(self.vm.run(limits).split(), [memory, processes, weight])
        self.vm.run(f"pintle pod exec limited -- true; kill -9 {pid}")
        self.wait_for("limited", lambda status: status["containerStatuses"][0]["restartCount"] == 1 and status["phase"] == "Running"
                      and status["containerStatuses"][0]["ready"])
        self.vm.run("rm /etc/pintle/manifests/limited.json")
        self.vm.wait("its scopes and slices are gone", """left=$(systemctl list-units --all --no-legend --plain 'kubepods-*' 'pintle-*.scope' | grep -v not-found
            find /sys/fs/cgroup -path '*kubepods*' -name '*.scope'; ls /run/systemd/transient | grep -E 'kubepods-.*pod|scope'); [ -z "$left" ] || { echo "$left"; false; }""")
        self.apply()
        self.assertEqual(self.vm.run("systemctl --failed --no-legend").strip(), "")


if __name__ == "__main__":
    vm.main()
