"""containerd as a user of pintle-cni: a pod by crictl, with a host port. No pintled.

containerd 1.6 and the loopback plugin are Debian's; crictl is a peer (tests/peers/build.sh crictl).
"""

import json
import os
import subprocess
import unittest

import contained
import containerd
import peers
import pods
from host_ports_test import echo
from node import wait_for

CRICTL = peers.find("crictl")
GATEWAY = "10.218.0.1"


@unittest.skipUnless(containerd.is_installed(), "needs Debian's containerd, runc and containernetworking-plugins")
@unittest.skipUnless(CRICTL, "needs crictl (tests/peers/build.sh crictl)")
class WithContainerd(unittest.TestCase):
    def setUp(self):
        plugins = os.path.join(contained.root(), "plugins")
        os.makedirs(plugins)
        os.symlink(os.path.join(contained.build(), "bin/pintle-cni"), os.path.join(plugins, "pintle-cni"))
        os.symlink("/usr/lib/cni/loopback", os.path.join(plugins, "loopback"))
        self.containerd = containerd.Containerd({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "pintle-cni", "bridge": "cni-containerd", "podCIDR": ["10.218.0.0/24"], "dataDir": os.path.join(contained.root(), "pintle"),
             "capabilities": {"portMappings": True}}]}, plugins=plugins)
        os.makedirs(os.path.join(self.containerd.root, "logs"))

    def tearDown(self):
        self.containerd.stop()

    def crictl(self, *arguments):
        endpoint = "unix://" + self.containerd.socket
        done = subprocess.run([CRICTL, "-r", endpoint, "-i", endpoint, "-t", "30s", *arguments], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, f"crictl {' '.join(arguments)}: {done.stderr}")
        return done.stdout.strip()

    def networks(self):
        """Links and rules: what else containerd leaves (mounts of its own) ends with the test."""
        links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
        rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
        return [line.split()[0] for line in links.splitlines()], rules

    def test_a_pod_with_a_host_port(self):
        nothing = self.networks()
        pod_file = self.containerd.write("pod.json", json.dumps({
            "metadata": {"name": "web", "namespace": "default", "uid": "u1", "attempt": 0}, "log_directory": os.path.join(self.containerd.root, "logs"),
            "port_mappings": [{"protocol": 0, "container_port": 8080, "host_port": 18100}], "linux": {}}))
        container_file = self.containerd.write("container.json", json.dumps({
            "metadata": {"name": "one"}, "image": {"image": pods.IMAGE}, "command": ["/bin/workload", "serve", "8080"], "log_path": "one.log",
            "linux": {}}))
        pod = self.crictl("runp", pod_file)
        container = self.crictl("create", pod, container_file, pod_file)
        self.crictl("start", container)
        address = json.loads(self.crictl("inspectp", pod))["status"]["network"]["ip"]
        self.assertTrue(address.startswith("10.218.0."), address)
        wait_for("the pod answers", lambda: echo(8080, address) == b"hello\n", 10)
        self.assertEqual(echo(18100, GATEWAY), b"hello\n", "by its host port")
        self.crictl("stopp", pod)
        self.crictl("stopp", pod)
        self.crictl("rmp", "-f", pod)
        self.assertEqual(self.networks(), nothing)


if __name__ == "__main__":
    contained.main()
