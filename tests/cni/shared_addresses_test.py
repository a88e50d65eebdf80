"""pintle-cni and a running pintled on one bridge: one pool of addresses, one set of rules, each other's host ports respected."""

import json
import os
import subprocess
import unittest

import contained
from host_ports_test import NODE, echo, serving
from node import NodeTest, wait_for

PROGRAM = os.path.join(contained.build(), "bin/pintle-cni")


class Shared(NodeTest):
    def call(self, command, container, ports=()):
        config = {"cniVersion": "1.1.0", "name": "others", "type": "pintle-cni", "bridge": "pintle-test", "podCIDR": "10.213.0.0/24",
                  "dataDir": self.node.state, "runtimeConfig": {"portMappings": [
                      {"hostPort": port, "containerPort": 80, "protocol": "tcp"} for port in ports]}}
        done = subprocess.run([PROGRAM], input=json.dumps(config), capture_output=True, text=True, check=False, env={
            "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": f"/run/netns/{container}", "CNI_IFNAME": "eth0"})
        return json.loads(done.stdout) if done.stdout else {}

    def rules(self):
        return subprocess.run(["nft", "-s", "list", "table", "inet", "pintle-network-bridge"], capture_output=True, text=True, check=False).stdout

    def test_one_bridge_for_both(self):
        subprocess.run(["ip", "netns", "add", "other"], check=True)
        try:
            self.node.drop(serving("web", 8080, 18120))
            pod = self.node.wait_for_pods(1)["web"]
            result = self.call("ADD", "other", [18121])
            address = result["ips"][0]["address"].split("/")[0]
            self.assertNotIn(address, pod.addresses)
            self.assertEqual(result["ips"][0]["gateway"], NODE)
            wait_for("the pod answers", lambda: echo(18120) == b"hello\n", 10)
            self.assertEqual(self.call("DEL", "other"), {})
            self.assertIn("host port 18120/tcp: sandbox", self.call("ADD", "other", [18120]).get("msg", ""))
            self.assertIn("ips", self.call("ADD", "other", [18121]))
            before = self.rules()
            self.assertIn("18120", before)
            self.assertIn("18121", before)
            subprocess.run(["nft", "flush", "ruleset"], check=True)
            wait_for("pintled brings back the rules of both", lambda: self.rules() == before, 10)
            self.node.take("web")
            self.node.wait_for_none()
            self.assertIn("18121", self.rules())
            self.assertEqual(self.call("DEL", "other"), {})
            self.assertNotIn("18121", self.rules())
        finally:
            subprocess.run(["ip", "netns", "delete", "other"], check=True)
            subprocess.run(["umount", "/run/netns"], check=False, capture_output=True)


if __name__ == "__main__":
    contained.main()
