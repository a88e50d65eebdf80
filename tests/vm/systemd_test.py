"""The package on an ordinary host: Debian 12 with systemd and cgroup v2, in a virtual machine (vm.py).

Twenty pods run on while the service is restarted, stopped and started, systemd reloaded, and the package upgraded; all come back after a
cut of the mains. Pods are slices and containers scopes of systemd, with limits that hold and that it does not take away. The cgroup driver
is changed and changed back under them, and with the last pod everything goes.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
import unittest

import peers
import pods
import vm

PODS = int(os.environ.get("PINTLE_VM_PODS", "20"))
CRICTL = peers.find("crictl")
READY = "curl -sf --unix-socket /run/pintle/pintled.sock http://pintle/readyz"
IDENTITIES = """
for pid in $(cat $(find /sys/fs/cgroup -path '*pintle*' -name cgroup.procs -o -path '*kubepods*' -name cgroup.procs) | sort -un); do
  command=$(tr '\\0' ' ' </proc/$pid/cmdline)
  case $command in /bin/workload*) echo "$pid $(awk '{print $22}' /proc/$pid/stat) $(readlink /proc/$pid/ns/net) $command";; esac
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
        package = vm.make_package(cls.folder)
        manifests = [pods.ticking(f"pod-{index}", 1000) for index in range(PODS)]
        manifests[-1]["spec"]["shareProcessNamespace"] = True
        profile = {"apiVersion": "pintle.io/v1", "kind": "NodeProfile", "metadata": {"name": "on-cgroupfs"},
                   "spec": {"extends": ["standalone"], "plugins": {"runtime-oci": {"config": {"cgroupDriver": "cgroupfs"}}}}}
        with open(os.path.join(cls.folder, "on-cgroupfs.json"), "w", encoding="utf-8") as file:
            json.dump(profile, file)
        for name, parent in (("path", "/somewhere/else"), ("slice", "else-where.slice")):
            with open(os.path.join(cls.folder, f"sandbox-{name}.json"), "w", encoding="utf-8") as file:
                json.dump({"metadata": {"name": name, "namespace": "default", "uid": name}, "linux": {"cgroup_parent": parent}}, file)
        late = [pods.ticking("while-cgroupfs", 1000), pods.ticking("while-systemd", 1000)]
        limited = pods.pod("limited", pods.container("spins", "spin"))
        limited["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "100m", "memory": "32Mi"}}
        greedy = pods.pod("greedy", pods.container("eats", "eat", 256), restart="Never")
        greedy["spec"]["containers"][0]["resources"] = {"limits": {"memory": "32Mi"}}
        for manifest in [*manifests, limited, greedy, *late]:
            with open(os.path.join(cls.folder, manifest["metadata"]["name"] + ".json"), "w", encoding="utf-8") as file:
                json.dump(manifest, file)
        payload = [os.path.join(cls.folder, name) for name in os.listdir(cls.folder) if name.endswith((".json", ".deb"))]
        payload += [pods.image_archive(), upgraded(package, cls.folder)]
        payload += [CRICTL] if CRICTL else []
        cls.vm = vm.VirtualMachine(cls.folder, payload)
        cls.addClassCleanup(cls.vm.power_off)
        cls.vm.boot()
        cls.vm.run("dpkg -i /payload/pintle.deb", limit=120)
        cls.vm.wait("the node is ready", "curl -sf --unix-socket /run/pintle/pintled.sock http://pintle/readyz")
        cls.vm.run("pintle image load /payload/workload.tar")
        cls.vm.run("cp /payload/pod-*.json /etc/pintle/manifests/")

    def running(self):
        return json.loads(self.vm.run("pintle pod ls -o json"))["pods"]

    def wait_for_pods(self, count=PODS, greedy=False):
        def are_up():
            found = [pod for pod in self.running() if not (greedy and pod["name"] == "greedy")]
            count_up = count - 1 if greedy else count
            return len(found) == count_up and all(pod["phase"] == "Running" and pod["ready"] == pod["containers"] for pod in found)
        end = time.monotonic() + 60 * vm.SLOWNESS
        while not are_up():
            self.assertLess(time.monotonic(), end, self.running())
            time.sleep(1)

    def identities(self, count=PODS):
        found = sorted(line for line in self.vm.run(IDENTITIES).split("\n") if "ticks" in line)
        self.assertEqual(len(found), 2 * count, found)
        return found

    def test_1_pods_are_untouched_by_restart_stop_start_and_upgrade(self):
        self.wait_for_pods()
        self.assertEqual(self.vm.run("systemctl is-active pintled").strip(), "active")
        before = self.identities()
        self.assertIn("/kubepods.slice/", self.vm.run("cat /proc/$(pgrep -xf '.*pintle-pod-init.*')/cgroup"), "the first process of shared ones")
        main = self.vm.run("systemctl show -P MainPID pintled").strip()
        for command in ("systemctl daemon-reload", "systemctl restart pintled", "systemctl stop pintled; systemctl start pintled",
                        "dpkg -i /payload/upgrade.deb"):
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

    def spinning(self, command):
        """What a command says with $scope and $group those of the container that is limited, $slice those of its pod."""
        return self.vm.run("""
            group=/sys/fs/cgroup$(cut -d: -f3 /proc/$(pgrep -f '^/bin/workload spin')/cgroup)
            scope=$(basename $group); slice=$(basename $(dirname $group))
            """ + command).split()

    def test_4_pods_are_slices_and_containers_scopes(self):
        limited = next(pod for pod in self.running() if pod["name"] == "limited")
        slice_name = f"kubepods-pod{limited['uid'].replace('-', '_')}.slice"
        told = self.spinning("echo $scope $slice; systemctl is-active $scope $slice; systemctl show -P Delegate $scope; systemctl show -P Slice $scope")
        self.assertRegex(told[0], r"^pintle-[0-9a-f]{64}\.scope$")
        self.assertEqual(told[1:], [slice_name, "active", "active", "yes", slice_name])
        self.assertEqual(int(self.vm.run("systemctl list-units --no-legend 'pintle-*.scope' | wc -l")), 2 * PODS + 1)
        shown = self.vm.run("systemd-cgls --no-pager /kubepods.slice")
        self.assertEqual(shown.count("/bin/workload ticks"), 2 * PODS, shown)
        monitors = self.vm.run("systemctl status --no-pager pintle-monitors.service")
        self.assertEqual(monitors.count("conmon --sync"), 2 * PODS + 1, monitors)
        self.assertEqual(self.vm.run("ls -d /sys/fs/cgroup/kubepods /sys/fs/cgroup/pintle 2>/dev/null || echo none").strip(), "none")
        self.assertIn("ok    cgroup-driver", self.vm.run("pintle doctor", check=False)[1])

    LIMITS = "cat $group/memory.max $group/cpu.max $group/pids.max; head -n 1 $group/../memory.max; cat $group/../cpu.max"

    def test_5_limits_outlast_what_systemd_does(self):
        before = self.spinning(self.LIMITS)
        self.assertEqual(before, [str(32 << 20), "10000", "100000", "max", str(32 << 20), "10000", "100000"])
        for command in ("systemctl daemon-reload", "systemctl set-property --runtime $slice IOWeight=50; sleep 2",
                        "systemctl set-property --runtime kubepods.slice CPUWeight=90; sleep 2", "systemctl daemon-reexec"):
            with self.subTest(command):
                self.assertEqual(self.spinning(command + " >/dev/null; " + self.LIMITS), before)
        if not CRICTL:
            self.skipTest("what crictl updates was not tried: tests/peers/build.sh crictl builds it")
        crictl = "/payload/crictl -r unix:///run/pintle/cri.sock "
        self.assertEqual(self.spinning(crictl + "update --memory 25165824 --cpu-quota 20000 --cpu-period 50000 --cpu-share 512 "
                                       "$(" + crictl + "ps -q --name spins) >/dev/null; cat $group/memory.max $group/cpu.max $group/cpu.weight"),
                         [str(24 << 20), "20000", "50000", "20"])
        self.assertEqual(self.spinning("systemctl daemon-reload; cat $group/memory.max $group/cpu.max $group/cpu.weight"),
                         [str(24 << 20), "20000", "50000", "20"])
        stats = json.loads(self.vm.run(crictl + "stats -o json"))["stats"]
        self.assertEqual(len(stats), 2 * PODS + 1)
        self.assertTrue(all(int(one["memory"]["usageBytes"]["value"]) > 0 and int(one["cpu"]["usageCoreNanoSeconds"]["value"]) > 0
                            for one in stats), stats)
        statsp = json.loads(self.vm.run(crictl + "statsp -o json"))["stats"]
        self.assertTrue(all(int(one["linux"]["memory"]["usageBytes"]["value"]) > 0 for one in statsp), statsp)

    def refusal(self, form):
        code, output = self.vm.run(f"/payload/crictl --timeout 60s -r unix:///run/pintle/cri.sock runp /payload/sandbox-{form}.json", check=False)
        self.assertNotEqual(code, 0, output)
        return output

    def cgroup_of(self, name):
        uid = next(pod["uid"] for pod in self.running() if pod["name"] == name)
        return self.vm.run(f"find /sys/fs/cgroup -type d -name '*pod{uid}*' -o -type d -name '*pod{uid.replace('-', '_')}*'").strip()

    def test_6_the_driver_changes_under_running_pods(self):
        before = self.identities()
        if CRICTL:
            self.assertIn("is a path, but the cgroup driver is systemd: name a slice, such as somewhere-else.slice", self.refusal("path"))
        self.vm.run("cp /payload/on-cgroupfs.json /etc/pintle/profiles/on-cgroupfs.yaml; pintle profile apply on-cgroupfs", limit=60)
        self.vm.wait("the node is ready", READY)
        self.vm.run("cp /payload/while-cgroupfs.json /etc/pintle/manifests/")
        self.wait_for_pods(PODS + 3, greedy=True)
        self.assertIn("/kubepods/besteffort/pod", self.cgroup_of("while-cgroupfs"))
        if CRICTL:
            self.assertIn("is a systemd slice, but the cgroup driver is cgroupfs", self.refusal("slice"))
        # A container of a pod from before goes on in its pod's slice when it is started anew.
        scope, slice_name, pid = self.spinning("pid=$(pgrep -f '^/bin/workload spin'); echo $scope $slice $pid; kill -9 $pid")
        self.vm.wait("the container is started anew", f"pgrep -f '^/bin/workload spin' | grep -vx {pid}")
        again = self.spinning("echo $scope $slice")
        self.assertEqual(again[1], slice_name)
        self.assertRegex(again[0], r"^pintle-[0-9a-f]{64}\.scope$")
        self.assertNotEqual(again[0], scope)
        self.vm.run("pintle profile apply standalone", limit=60)
        self.vm.wait("the node is ready", READY)
        self.vm.run("cp /payload/while-systemd.json /etc/pintle/manifests/")
        self.wait_for_pods(PODS + 4, greedy=True)
        self.assertIn("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod", self.cgroup_of("while-systemd"))
        self.assertIn("/kubepods/besteffort/pod", self.cgroup_of("while-cgroupfs"))
        self.assertEqual([line for line in self.identities(PODS + 2) if line in before], before)
        self.vm.run("systemctl restart pintled")
        self.vm.wait("the node is ready", READY)
        self.assertEqual([line for line in self.identities(PODS + 2) if line in before], before)

    def test_7_with_the_last_pod_everything_goes(self):
        self.vm.run("rm /etc/pintle/manifests/*.json")
        self.vm.wait("all pods have ended", "[ \"$(pintle pod ls -o json | tr -d ' \\n')\" = '{\"pods\":[]}' ]", limit=120)
        self.vm.wait("their cgroups are gone", """left=$(systemctl list-units --all --no-legend --plain 'kubepods*' 'pintle-*.scope' | grep -v not-found
            ls -d /sys/fs/cgroup/kubepods*); [ -z "$left" ] || { echo "$left"; false; }""")
        self.vm.run("systemctl stop pintled")
        # systemd takes its time to forget a slice that nobody needs any more.
        self.vm.wait("nothing of ours is left", """left=$(systemctl list-units --all --no-legend --plain 'pintle*' | grep -v pintled.service
            find /sys/fs/cgroup/pintle* /run/systemd/transient/*pintle* -maxdepth 2 -type d -o -name cgroup.procs -exec grep -H . {} + 2>/dev/null)
            [ -z "$left" ] || { echo "$left"; false; }""")
        self.assertEqual(self.vm.run("systemctl --failed --no-legend").strip(), "")

    def test_8_pods_outlive_the_package_until_it_is_purged(self):
        self.vm.run("systemctl start pintled; cp /payload/while-systemd.json /etc/pintle/manifests/")
        self.vm.wait("the pod runs", "pintle pod ls | grep -q 'while-systemd .*2/2 .*Running'")
        self.assertIn('"supportedVersions"', self.vm.run("echo '{\"cniVersion\":\"1.0.0\"}' | CNI_COMMAND=VERSION /usr/lib/cni/pintle-cni"))
        before = self.identities(1)
        self.vm.run("dpkg --remove pintle", limit=120)
        self.assertEqual(self.identities(1), before)
        self.assertEqual(self.vm.run("ls -d /etc/pintle/profiles /var/lib/pintle /usr/sbin/pintled /usr/lib/cni/pintle-cni 2>/dev/null",
                                     check=False)[1].split(), ["/etc/pintle/profiles", "/var/lib/pintle"])
        self.vm.run("dpkg --purge pintle", limit=120)
        self.vm.wait("the pod has ended", "! pgrep -f '^/bin/workload'")
        self.assertEqual(self.vm.run("systemctl list-units --all --no-legend --plain 'kubepods*' 'pintle*.slice' 'pintle-*'").strip(), "")
        self.assertEqual(self.vm.run("ls -d /etc/pintle /var/lib/pintle /run/pintle 2>/dev/null", check=False)[1], "")
        self.assertEqual(self.vm.run("systemctl list-unit-files --no-legend 'pintle*' || true").strip(), "")


if __name__ == "__main__":
    vm.main()
