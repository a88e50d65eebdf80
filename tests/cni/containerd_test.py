"""containerd as a user of pintle-cni: a pod by crictl, with a host port. No pintled.

containerd 1.6 and the loopback plugin are Debian's; crictl is a peer (tests/peers/build.sh crictl).
"""

import json
import os
import shutil
import subprocess
import unittest

import contained
import pods
from host_ports_test import echo
from node import wait_for

PEERS = os.environ.get("PINTLE_PEERS") or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "pintle-peers")
CRICTL = os.environ.get("PINTLE_CRICTL") or os.path.join(PEERS, "crictl")
GATEWAY = "10.218.0.1"

CONFIG = """version = 2
root = "{root}/root"
state = "{root}/state"
[grpc]
  address = "{root}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{image}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{root}/plugins"
    conf_dir = "{root}/net.d"
"""


@unittest.skipUnless(shutil.which("containerd") and shutil.which("runc"), "needs Debian's containerd and runc")
@unittest.skipUnless(os.path.exists("/usr/lib/cni/loopback"), "needs Debian's containernetworking-plugins")
@unittest.skipUnless(os.path.exists(CRICTL), "needs crictl (tests/peers/build.sh crictl)")
class Containerd(unittest.TestCase):
    def setUp(self):
        self.root = os.path.join(contained.root(), "containerd")
        for folder in ("plugins", "net.d", "logs"):
            os.makedirs(os.path.join(self.root, folder))
        os.symlink(os.path.join(contained.build(), "bin/pintle-cni"), os.path.join(self.root, "plugins/pintle-cni"))
        os.symlink("/usr/lib/cni/loopback", os.path.join(self.root, "plugins/loopback"))
        self.write("config.toml", CONFIG.format(root=self.root, image=pods.IMAGE))
        self.write("net.d/10-pods.conflist", json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "pintle-cni", "bridge": "cni-containerd", "podCIDR": ["10.218.0.0/24"], "dataDir": os.path.join(self.root, "pintle"),
             "capabilities": {"portMappings": True}}]}))
        # Where containerd keeps results and shims their sockets: not the machine's own folders.
        for folder in ("/var/lib/cni", "/run/containerd"):
            os.makedirs(folder, exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
        with open(os.path.join(self.root, "log"), "wb") as log:
            self.process = subprocess.Popen(["containerd", "-c", os.path.join(self.root, "config.toml")], stdout=log, stderr=log)
        wait_for("containerd answers", lambda: self.control("version", check=False).returncode == 0, 30)
        self.control("images", "import", pods.image_archive())

    def tearDown(self):
        self.process.terminate()
        self.process.wait(30)

    def write(self, name, text):
        with open(os.path.join(self.root, name), "w", encoding="utf-8") as file:
            file.write(text)
        return os.path.join(self.root, name)

    def control(self, *arguments, check=True):
        return subprocess.run(["ctr", "-a", os.path.join(self.root, "containerd.sock"), "-n", "k8s.io", *arguments], check=check,
                              capture_output=True)

    def crictl(self, *arguments):
        endpoint = "unix://" + os.path.join(self.root, "containerd.sock")
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
        pod_file = self.write("pod.json", json.dumps({
            "metadata": {"name": "web", "namespace": "default", "uid": "u1", "attempt": 0}, "log_directory": os.path.join(self.root, "logs"),
            "port_mappings": [{"protocol": 0, "container_port": 8080, "host_port": 18100}], "linux": {}}))
        container_file = self.write("container.json", json.dumps({
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
