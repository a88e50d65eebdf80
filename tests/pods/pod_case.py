"""What tests of pods have in common: a node, pods that are run one by one, and what they wrote.

PINTLE_TEST_RUNTIME names the OCI runtime that the node uses (crun where it runs, else runc).
"""

import json
import os
import subprocess

import pods
from node import NodeTest, wait_for


def shell(name, script, **fields):
    """A container that runs a script of /bin/sh."""
    return {**pods.container(name), "command": ["/bin/sh", "-c", script], "args": [], **fields}


def pod(name, *containers, volumes=(), metadata=None, **spec):
    made = pods.pod(name, *containers, grace=0)
    made["spec"].update(volumes=list(volumes), **spec)
    made["metadata"].update(metadata or {})
    return made


def inside(pid, *command):
    """What a command of busybox writes in a container's mount and process view, run as root."""
    done = subprocess.run(["nsenter", "-t", str(pid), "-m", "-u", "-i", "-n", "-p", "/bin/busybox", *command], capture_output=True,
                          text=True, check=False, timeout=20)
    return done.stdout + done.stderr


def status_of(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def mounts_of(pid="self"):
    """Mount point -> the line of mountinfo."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as file:
        return {line.split()[4]: line for line in file}


class PodCase(NodeTest):
    def prepare(self):
        runtime = os.environ.get("PINTLE_TEST_RUNTIME")
        if runtime:
            self.node.plugins["runtime-oci"]["config"]["runtime"] = runtime

    def run_pod(self, manifest):
        """Drops a manifest and waits until the pod runs; the pod and its first container."""
        self.node.drop(manifest)
        name = manifest["metadata"]["name"]

        def running():
            found = self.node.pods().get(name)
            return found if found and found.is_running() else None
        try:
            found = wait_for(f"{name} runs", running, 30)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{list(self.node.pods().values())}") from None
        containers = self.containers_of(found)
        self.assertTrue(containers, f"{found} runs without a container")
        return found, containers[0]

    def containers_of(self, found):
        return sorted((one for one in self.node.containers().values() if one.sandbox == found.sandbox), key=lambda one: one.pid)

    def log_lines(self, found, container="one", attempt=0):
        path = os.path.join(self.node.log_folder(found, container), f"{attempt}.log")
        if not os.path.exists(path):
            return []
        with open(path, encoding="utf-8") as file:
            return [line.split(" ", 3)[3].rstrip("\n") for line in file]

    def wait_for_lines(self, found, count, **where):
        return wait_for(f"{count} lines of log", lambda: len(self.log_lines(found, **where)) >= count and self.log_lines(found, **where))

    def wait_for_message(self, name, text):
        """Until the pod waits, and says why."""
        def waits():
            found = self.node.pods().get(name)
            return found if found and text in found.message else None
        try:
            return wait_for(f"{name} says {text}", waits, 20)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{list(self.node.pods().values())}") from None

    def refused(self, manifest):
        """The line with which `pintle pod apply` refuses a manifest."""
        path = os.path.join(self.node.root, "refused.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(manifest, file)
        done = self.node.pintle("pod", "apply", "-f", path, check=False)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        return done.stderr + done.stdout

    def volume_folder(self, found, volume):
        return os.path.join(self.node.state, "shared", "node-agent", "pods", found.uid, "volumes", volume)
