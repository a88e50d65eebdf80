"""Pods on a network of Debian's CNI reference plugins (bridge, host-local, portmap, loopback), through network-cni."""

import json
import os
import subprocess
import unittest

import contained
import pods
from host_ports_test import echo, serving
from admin import AdminError
from node import NETWORK, NodeTest, wait_for

PLUGINS = "/usr/lib/cni"
GATEWAY = "10.214.0.1"
# A plugin of the newest version, which Debian's are not: it writes down what it is told, and fails if a file says so.
RECORDER = """#!/usr/bin/python3
import json, os, sys
command = os.environ["CNI_COMMAND"]
with open(sys.argv[0] + ".told", "a") as file:
    print(json.dumps({"command": command, "container": os.environ.get("CNI_CONTAINERID", ""), "config": json.load(sys.stdin)}), file=file)
if os.path.exists(sys.argv[0] + ".fails-" + command):
    print(json.dumps({"cniVersion": "1.1.0", "code": 50, "msg": "not today"}))
    sys.exit(1)
if command == "ADD":
    print(json.dumps({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": os.environ["CNI_NETNS"]}],
                      "ips": [{"address": "10.214.0.77/24", "interface": 0}], "odd": "kept"}))
"""


@unittest.skipUnless(os.path.exists(f"{PLUGINS}/bridge"), "needs Debian's containernetworking-plugins")
class ForeignCni(NodeTest):
    def prepare(self):
        self.configurations = os.path.join(self.node.root, "net.d")
        self.addresses = os.path.join(self.node.root, "addresses")
        self.programs = os.path.join(self.node.root, "programs")
        os.makedirs(self.configurations)
        os.makedirs(self.programs)
        self.write("20-pods.conflist", self.network())
        self.node.plugins["network-cni"] = {"config": {"confDir": self.configurations, "binDirs": [self.programs, PLUGINS], "timeoutSeconds": 5}}
        del self.node.plugins["network-bridge"]
        with open("/proc/sys/net/ipv4/ip_forward", encoding="ascii") as file:
            self.forwarding = file.read()

    def network(self):
        return {"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "loopback"},
            {"type": "bridge", "bridge": "cni-foreign", "isGateway": True, "hairpinMode": True, "ipam": {
                "type": "host-local", "dataDir": self.addresses, "ranges": [[{"subnet": "10.214.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": True}}]}

    def write(self, name, content):
        path = os.path.join(self.configurations, name)
        with open(path + ".part", "w", encoding="utf-8") as file:
            file.write(content if isinstance(content, str) else json.dumps(content))
        os.rename(path + ".part", path)

    def held(self):
        """Addresses that host-local has given out."""
        folder = os.path.join(self.addresses, "pods")
        return sorted(name for name in os.listdir(folder) if name[0].isdigit()) if os.path.exists(folder) else []

    def tearDown(self):
        """What the reference plugins leave behind for good is not ours to take away."""
        if not self.node.is_running():
            self.node.start()
        self.node.remove_pods()
        held = self.held()
        subprocess.run(["ip", "link", "delete", "cni-foreign"], check=False, capture_output=True)
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as file:
            file.write(self.forwarding)
        super().tearDown()
        self.assertEqual(held, [], "addresses are given back")

    def test_a_pod_has_its_network_and_host_port_and_keeps_them(self):
        self.node.drop(serving("web", 8080, 18090))
        pod = self.node.wait_for_pods(1)["web"]
        self.assertTrue(pod.addresses[0].startswith("10.214.0."), pod.addresses)
        self.assertEqual(self.held(), pod.addresses)
        wait_for("the pod answers", lambda: echo(8080, pod.addresses[0]) == b"hello\n", 10)
        self.assertEqual(echo(18090, GATEWAY), b"hello\n", "by its host port")
        before = self.node.picture()
        self.node.kill()
        self.assertEqual(echo(8080, pod.addresses[0]), b"hello\n", "without the daemon")
        self.write("20-pods.conflist", {**self.network(), "name": "another"})
        self.node.start()
        self.assertEqual(self.node.picture(), before)
        self.node.take("web")
        self.node.wait_for_none()
        self.assertEqual(self.held(), [], "removed with the configuration that it was added with")

    def test_a_broken_configuration_is_told_and_the_next_one_serves(self):
        self.write("10-broken.conflist", '{"cniVersion": "1.0.0", "name": "pods", "plugins": [}')
        self.node.drop(pods.pod("one", pods.container("one", "sleep")))
        self.node.wait_for_pods(1)
        wait_for("it is told", lambda: "10-broken.conflist: " in self.node.log_tail(), 10)
        os.unlink(os.path.join(self.configurations, "10-broken.conflist"))
        missing = self.network()
        missing["plugins"][1]["type"] = "no-such-plugin"
        self.write("20-pods.conflist", missing)
        self.node.drop(pods.pod("two", pods.container("one", "sleep")))
        wait_for("the pod says why it does not run", lambda: "two" in self.node.pods() and
                 "CNI plugin 'no-such-plugin' is not in" in self.node.pods()["two"].message, 20)
        self.assertTrue(self.node.pods()["one"].is_running())
        self.write("20-pods.conflist", self.network())
        self.node.wait_for_pods(2)

    def told(self, command):
        """What the recorder was told with that command: (container, configuration) of each."""
        path = os.path.join(self.programs, "recorder.told")
        if not os.path.exists(path):
            return []
        with open(path, encoding="utf-8") as file:
            told = [json.loads(line) for line in file]
        return [(one["container"], one["config"]) for one in told if one["command"] == command]

    def test_every_command_reaches_the_plugins(self):
        recorder = os.path.join(self.programs, "recorder")
        with open(recorder, "w", encoding="utf-8") as file:
            file.write(RECORDER)
        os.chmod(recorder, 0o755)
        self.write("20-pods.conflist", {"cniVersion": "1.1.0", "name": "pods", "plugins": [{"type": "recorder", "key": "value"}]})
        self.node.drop(pods.pod("told", pods.container("one", "sleep")))
        pod = self.node.wait_for_pods(1)["told"]
        self.assertEqual(pod.addresses, ["10.214.0.77"])
        (container, config), = self.told("ADD")
        self.assertEqual((container, config["name"], config["cniVersion"], config["key"]), (pod.sandbox, "pods", "1.1.0", "value"))
        self.assertNotIn("prevResult", config)

        self.node.admin.call(NETWORK, 4, {1: pod.sandbox})
        (container, config), = self.told("CHECK")
        self.assertEqual((container, config.get("prevResult", {}).get("odd")), (pod.sandbox, "kept"), "with what only the plugin understands")
        open(recorder + ".fails-CHECK", "w", encoding="ascii").close()
        with self.assertRaisesRegex(AdminError, "CNI plugin recorder, CHECK: not today"):
            self.node.admin.call(NETWORK, 4, {1: pod.sandbox})

        self.node.kill()
        open(recorder + ".fails-STATUS", "w", encoding="ascii").close()
        collected = len(self.told("GC"))
        self.node.launch()
        wait_for("the network says that it is not ready", lambda: "CNI plugin recorder, STATUS: not today" in json.dumps(
            self.node.plugin("network-cni")), 20)
        os.unlink(recorder + ".fails-STATUS")
        wait_for("it is ready again, and the node with it", self.node.admin.is_ready, 20)
        wait_for("garbage is collected", lambda: len(self.told("GC")) > collected, 20)
        self.assertEqual(self.told("GC")[-1][1]["cni.dev/valid-attachments"], [{"containerID": pod.sandbox, "ifname": "eth0"}])
        self.assertEqual(self.node.wait_for_pods(1)["told"].sandbox, pod.sandbox)

        self.node.take("told")
        self.node.wait_for_none()
        (container, config), = self.told("DEL")
        self.assertEqual((container, config.get("prevResult", {}).get("odd")), (pod.sandbox, "kept"))
        left = [name for folder, _, names in os.walk(self.node.state) if folder.endswith("/attachments") for name in names]
        self.assertEqual(left, [], "the cache forgets what is gone")

    def program(self, script):
        path = os.path.join(self.programs, "odd")
        with open(path + ".part", "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n" + script)
        os.chmod(path + ".part", 0o755)
        os.rename(path + ".part", path)

    def test_a_plugin_that_misbehaves_is_told_and_leaves_nothing(self):
        odd = self.network()
        odd["plugins"].append({"type": "odd"})
        self.write("20-pods.conflist", odd)
        for number, (script, words) in enumerate((
                ("exec sleep 1000", "it did not end within 5 seconds"), ("exec cat /dev/zero", "it printed too much"),
                ("echo nonsense", "it is no JSON"), ("kill -9 $$", "it was ended by signal 9"),
                ("echo '{\"code\": 7, \"msg\": \"not today\"}'; exit 1", "not today (CNI code 7)"))):
            self.program('[ "$CNI_COMMAND" = ADD ] || exit 0\n' + script)
            name = f"pod{number}"
            self.node.drop(pods.pod(name, pods.container("one", "sleep")))
            wait_for(f"the pod says: {words}", lambda: name in self.node.pods() and
                     f"CNI plugin odd, ADD: {words}" in self.node.pods()[name].message.replace("result: ", ""), 20)
            self.node.take(name)
            self.node.wait_for_none()
            self.assertEqual(self.held(), [])
        self.program('[ "$CNI_COMMAND" = ADD ] && exit 1; [ -e "$0.open" ]')
        self.node.drop(pods.pod("stuck", pods.container("one", "sleep")))
        wait_for("what cannot be undone is told", lambda: "stuck" in self.node.pods() and
                 "undoing it failed as well" in self.node.pods()["stuck"].message, 20)
        open(os.path.join(self.programs, "odd.open"), "w", encoding="ascii").close()
        self.node.take("stuck")
        self.node.wait_for_none()
        wait_for("it is undone at last", lambda: self.held() == [], 20)


if __name__ == "__main__":
    contained.main()
