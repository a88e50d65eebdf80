"""A containerd of the test's own, on one network: root, state, socket and CNI folders are its own, images are loaded.

    containerd = Containerd(conflist)               # a network configuration list, as a value
    containerd.socket                               # its CRI
    containerd.stop()                               # pods have to be gone
"""

import glob
import json
import os
import shutil
import subprocess
import tempfile

import contained
import pods
from node import wait_for

CNI_PLUGINS = "/usr/lib/cni"
CONFIG = """version = 2
root = "{root}/root"
state = "{root}/state"
[grpc]
  address = "{root}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{sandbox_image}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{root}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "{runtime}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
      BinaryName = "/usr/bin/crun"
"""
# Where CNI plugins and results, and the shims' sockets lie: not the machine's own folders.
PRIVATE = ("/var/lib/cni", "/run/containerd")


def is_installed():
    """Debian's containerd and containernetworking-plugins."""
    return bool(shutil.which("containerd") and shutil.which("runc")) and os.path.exists(os.path.join(CNI_PLUGINS, "loopback"))


class Containerd:
    def __init__(self, conflist, plugins=CNI_PLUGINS, runtime="runc", sandbox_image=pods.IMAGE, archives=()):
        self.root = tempfile.mkdtemp(prefix="containerd-", dir=contained.root())
        self.socket = os.path.join(self.root, "containerd.sock")
        os.makedirs(os.path.join(self.root, "net.d"))
        self.write("config.toml", CONFIG.format(root=self.root, runtime=runtime, plugins=plugins, sandbox_image=sandbox_image))
        self.write("net.d/10-test.conflist", json.dumps(conflist))
        for folder in PRIVATE:
            os.makedirs(folder, exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
        with open(os.path.join(self.root, "log"), "wb") as log:
            self.process = subprocess.Popen(["containerd", "-c", os.path.join(self.root, "config.toml")], stdout=log, stderr=log)
        wait_for("containerd answers", lambda: self.control("version", check=False).returncode == 0, 30)
        for archive in (pods.image_archive(), *archives):
            self.control("images", "import", archive)

    def write(self, name, text):
        path = os.path.join(self.root, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def control(self, *arguments, check=True):
        return subprocess.run(["ctr", "-a", self.socket, "-n", "k8s.io", *arguments], check=check, capture_output=True)

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        for folder in PRIVATE:
            subprocess.run(["umount", "-l", folder], check=False)
        for folder in glob.glob("/sys/fs/cgroup/*/k8s.io"):  # empty by now; another containerd's is not
            try:
                os.rmdir(folder)
            except OSError:
                pass
