"""podman (with its CNI backend) as a user of pintle-cni: a container with a published port. No pintled."""

import json
import os
import shutil
import subprocess
import unittest

import contained
import pods
from host_ports_test import echo
from node import wait_for

GATEWAY = "10.219.0.1"

CONFIG = """[network]
network_backend = "cni"
cni_plugin_dirs = ["{root}/plugins"]
network_config_dir = "{root}/net.d"
[engine]
runtime = "crun"
cgroup_manager = "cgroupfs"
events_logger = "none"
"""


@unittest.skipUnless(shutil.which("podman"), "needs Debian's podman")
class Podman(unittest.TestCase):
    def setUp(self):
        self.root = os.path.join(contained.root(), "podman")
        for folder in ("plugins", "net.d"):
            os.makedirs(os.path.join(self.root, folder))
        os.symlink(os.path.join(contained.build(), "bin/pintle-cni"), os.path.join(self.root, "plugins/pintle-cni"))
        with open(os.path.join(self.root, "containers.conf"), "w", encoding="utf-8") as file:
            file.write(CONFIG.format(root=self.root))
        with open(os.path.join(self.root, "net.d/10-pods.conflist"), "w", encoding="utf-8") as file:
            json.dump({"cniVersion": "0.4.0", "name": "pods", "plugins": [
                {"type": "pintle-cni", "bridge": "cni-podman", "podCIDR": ["10.219.0.0/24"], "dataDir": os.path.join(self.root, "pintle"),
                 "capabilities": {"portMappings": True}}]}, file)
        # Where CNI's own library keeps results, and podman its locks: not the machine's own folders.
        for folder in ("/var/lib/cni", "/run/netns", "/dev/shm", "/run/containers", "/run/libpod", "/run/lock"):
            os.makedirs(folder, exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)

    def podman(self, *arguments):
        done = subprocess.run(["podman", "--root", f"{self.root}/storage", "--runroot", f"{self.root}/run", "--tmpdir", f"{self.root}/tmp",
                               "--storage-driver", "vfs", *arguments], capture_output=True, text=True, check=False,
                              env={**os.environ, "CONTAINERS_CONF": os.path.join(self.root, "containers.conf")})
        self.assertEqual(done.returncode, 0, f"podman {' '.join(arguments)}: {done.stderr}")
        return done.stdout.strip()

    def networks(self):
        links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
        rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
        return [line.split()[0] for line in links.splitlines()], rules

    def test_a_container_with_a_published_port(self):
        nothing = self.networks()
        self.podman("load", "-i", pods.image_archive())
        self.podman("run", "-d", "--name", "web", "--network", "pods", "--cgroups", "disabled", "-p", "18110:8080", pods.IMAGE,
                    "/bin/workload", "serve", "8080")
        wait_for("the container answers by its port", lambda: echo(18110, GATEWAY) == b"hello\n", 10)
        self.podman("rm", "-f", "-t", "2", "web")
        self.assertEqual(self.networks(), nothing)


if __name__ == "__main__":
    contained.main()
