"""The package on Debian 12 with systemd and cgroup v2, in a virtual machine (vm.py), when its memory runs short and when it is shut down.

Eviction: five pods of different quality of service, priority and use; one of them eats the machine's memory. Just that one goes, the
kernel's own killer finds nothing to do, and nobody else notices. Shutdown: pods get their grace before the machine goes off.
"""

import json
import os
import shutil
import sys
import tempfile
import time
import unittest

import pods
import vm

PROFILE = """
apiVersion: pintle.io/v1
kind: NodeProfile
metadata: {name: pressed}
spec:
  extends: [standalone]
  plugins:
    node-agent:
      config: {shutdownGracePeriod: 90s, shutdownGracePeriodCriticalPods: 30s}
"""


def eater(name, mebibytes, rate=0, request=None, limit=None, **spec):
    container = pods.container("eats", "eat", mebibytes, rate)
    container["resources"] = {"requests": {"memory": request}} if request else {"limits": {"memory": limit, "cpu": "500m"}} if limit else {}
    made = pods.pod(name, container)
    made["spec"].update(spec)
    return made


def last_words(name, **spec):
    """A pod that writes down that it was told to end, after a while."""
    script = f"trap 'sleep 3; echo {name} $(cat /proc/uptime) >>/proof/words; sync; exit 0' TERM; echo up; while :; do sleep 1; done"
    container = {**pods.container("one"), "command": ["/bin/sh", "-c", script], "args": [],
                 "volumeMounts": [{"name": "proof", "mountPath": "/proof"}]}
    made = pods.pod(name, container, grace=60)
    made["spec"].update(volumes=[{"name": "proof", "hostPath": {"path": "/var/proof", "type": "DirectoryOrCreate"}}], **spec)
    return made


GREEDY = eater("greedy", 1800, 40, request="100Mi")
PODS = [eater("guaranteed", 100, limit="150Mi"), eater("within", 200, request="300Mi"), eater("important", 200, priority=1000),
        eater("lesser", 60, request="20Mi"), last_words("speaks"), last_words("critical", priorityClassName="system-node-critical")]


class UnderPressure(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="pintle-vm-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        package = vm.make_package(cls.folder)
        payload = [package, pods.image_archive()]
        for manifest in [*PODS, GREEDY]:
            payload.append(os.path.join(cls.folder, manifest["metadata"]["name"] + ".json"))
            with open(payload[-1], "w", encoding="utf-8") as file:
                json.dump(manifest, file)
        cls.vm = vm.VirtualMachine(cls.folder, payload)
        cls.addClassCleanup(cls.vm.power_off)
        cls.vm.boot()
        cls.vm.run(f"mkdir -p /etc/pintle/profiles; cat >/etc/pintle/profiles/pressed.yaml <<'END'\n{PROFILE}\nEND\n"
                   "echo PINTLE_PROFILE=pressed >/etc/default/pintle; dpkg -i /payload/pintle.deb", limit=120)
        cls.wait_ready()
        cls.vm.run("pintle image load /payload/workload.tar")
        cls.vm.run("cp /payload/*.json /etc/pintle/manifests/; rm /etc/pintle/manifests/greedy.json")

    @classmethod
    def wait_ready(cls):
        cls.vm.wait("the node is ready", "curl -sf --unix-socket /run/pintle/pintled.sock http://pintle/readyz")

    def pod_list(self):
        return {pod["name"]: pod for pod in json.loads(self.vm.run("pintle pod ls -o json"))["pods"]}

    def wait_until(self, what, predicate, limit=60):
        end = time.monotonic() + limit * vm.SLOWNESS
        while True:
            found = self.pod_list()
            if predicate(found):
                return found
            self.assertLess(time.monotonic(), end, f"{what}: {found}")
            time.sleep(1)

    def wait_for_pods(self):
        return self.wait_until("the pods run", lambda found: len([pod for pod in found.values() if pod["phase"] == "Running"
                                                                  and pod["ready"] == pod["containers"]]) == len(PODS))

    def identities(self):
        """Processes of all containers but the greedy one's."""
        listed = self.vm.run(r"""for file in $(find /sys/fs/cgroup -path '*kubepods*' -name cgroup.procs); do for pid in $(cat $file); do
            command=$(cat /proc/$pid/cmdline 2>/dev/null | tr '\0' ' ')
            case $command in *"eat 1800"*|sleep*|/bin/sleep*) ;; *workload*|*trap*) echo "$pid $(awk '{print $22}' /proc/$pid/stat) $command";; esac
            done; done""")
        return sorted(line for line in listed.split("\n") if line)

    def test_1_eviction_under_real_memory_pressure_picks_the_right_pod(self):
        self.wait_for_pods()
        time.sleep(20)  # until the eaters have eaten
        before = self.identities()
        self.assertEqual(len(before), len(PODS), before)
        self.vm.run("cp /payload/greedy.json /etc/pintle/manifests/")
        found = self.wait_until("the greedy pod is evicted", lambda found: found.get("greedy", {}).get("phase") == "Failed", 120)
        told = json.loads(self.vm.run("pintle pod describe greedy -o json"))["status"]
        print(told["message"], file=sys.stderr)
        self.assertEqual(told["reason"], "Evicted")
        self.assertRegex(told["message"], r"^The node was low on resource: memory\. Threshold quantity: 100Mi, available: \d+\w*\. "
                         r"Container eats was using \d+\w*, request is 100Mi, has larger consumption of memory\.$")
        self.assertEqual([name for name, pod in found.items() if pod["phase"] != "Running"], ["greedy"])
        self.assertEqual(self.identities(), before)
        self.assertEqual(self.vm.run("dmesg | grep -ci 'out of memory\\|oom-kill' || true").strip(), "0")
        self.assertIn("MemoryPressure", self.vm.run("pintle status"))
        time.sleep(20)
        self.assertEqual([name for name, pod in self.pod_list().items() if pod["phase"] != "Running"], ["greedy"])
        self.assertEqual(self.identities(), before)
        self.vm.run("rm /etc/pintle/manifests/greedy.json")

    def test_2_a_shutdown_gives_pods_their_grace(self):
        self.wait_for_pods()
        self.assertIn("pintle", self.vm.run("systemd-inhibit --list --no-pager"))
        # The service's own end ends no pod.
        before = self.identities()
        self.vm.run("systemctl restart pintled", limit=120)
        self.wait_ready()
        self.wait_for_pods()
        self.assertEqual(self.identities(), before)
        self.vm.run("rm -f /var/proof/words; systemctl poweroff", limit=120)
        self.vm.process.wait(120 * vm.SLOWNESS)
        self.vm.power_off()
        self.vm.boot()
        words = [line.split() for line in self.vm.run("cat /var/proof/words").split("\n") if line]
        self.assertEqual([line[0] for line in words], ["speaks", "critical"], "those of the node itself end last")
        self.wait_ready()
        self.wait_for_pods()


if __name__ == "__main__":
    vm.main()
