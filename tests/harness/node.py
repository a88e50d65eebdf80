"""A node under test: `pintled` from the build tree, with folders, sockets and a profile of its own.

    class Survival(NodeTest):
        def test_something(self):
            node = self.node                      # started, ready, with the test image loaded
            node.drop(pods.ticking("a"))          # a manifest in its folder
            node.wait_for_pods(1)
            node.kill()                           # SIGKILL; containers go on
            node.start()

`NodeTest` compares the machine before and after each test: whatever is left when the pods are gone and the daemon has ended fails it.
"""

import glob
import json
import os
import shutil
import signal
import subprocess
import tempfile
import sys
import time
import unittest

import contained
import machine
import pods
import processes
import wire
from admin import Admin, AdminError

RUNTIME = "pintle.runtime.v1.RuntimeBackend"
NETWORK = "pintle.network.v1.PodNetwork"
AGENT = "pintle.node.v1.NodeAgent"
RUNNING = 2  # CONTAINER_STATE_RUNNING


class Timeout(AssertionError):
    pass


def wait_for(what, predicate, limit=30, interval=0.01):
    """Calls `predicate` until it gives something true, which is returned. The failure names what did not happen."""
    end = time.monotonic() + limit
    while True:
        try:
            value, problem = predicate(), ""
        except (AdminError, OSError) as error:
            value, problem = None, f" ({error})"
        if value:
            return value
        if time.monotonic() > end:
            raise Timeout(f"not within {limit} s: {what}{problem}")
        time.sleep(interval)


class Container:
    """One running container: what must stay the same whatever happens to `pintled`."""

    def __init__(self, fields):
        self.id = wire.text(fields, 1)
        self.sandbox = wire.text(fields, 2)
        self.state = wire.integer(fields, 3)
        self.pid = wire.integer(fields, 4)
        self.monitor = wire.integer(fields, 11)

    def identity(self):
        return (self.id, self.sandbox, self.pid, processes.start_time(self.pid), processes.namespace(self.pid), self.monitor,
                processes.start_time(self.monitor))


class Pod:
    def __init__(self, fields):
        reference = wire.messages(fields, 1)[0]
        self.namespace, self.name = wire.text(reference, 1), wire.text(reference, 2)
        self.uid, self.phase = wire.text(fields, 2), wire.text(fields, 4)
        self.ready, self.containers = wire.integer(fields, 5), wire.integer(fields, 6)
        self.restarts = wire.integer(fields, 7)
        self.addresses = [address.decode() for address in fields.get(9, [])]
        self.message, self.sandbox = wire.text(fields, 10), wire.text(fields, 11)
        self.json = wire.text(fields, 12)  # the whole core/v1 Pod

    def __repr__(self):
        return f"{self.name}: {self.phase} {self.ready}/{self.containers} {self.addresses} {self.message}"

    def is_running(self):
        return self.phase == "Running" and self.ready == self.containers and bool(self.addresses)


class Node:
    def __init__(self, name="node", root=None):
        self.name = name
        # Not named for the test: a Unix socket's path has at most 107 bytes.
        self.root = tempfile.mkdtemp(prefix="node-", dir=root or contained.root())
        self.build = contained.build()
        self.state, self.run = self._folder("state"), self._folder("run")
        self.config, self.manifests, self.logs = self._folder("config"), self._folder("manifests"), self._folder("logs")
        self._folder("config/profiles")
        self.binary = self.program("pintled")
        self.plugin_folder = os.path.join(self._folder("lib/plugins"))
        self.log = os.path.join(self.root, "pintled.log")
        self.process = None
        self.admin = Admin(os.path.join(self.run, "pintled.sock"))
        self.cri_socket = os.path.join(self.run, "cri.sock")
        self.plugins = {
            "cri": {"config": {"socket": self.cri_socket}},
            "runtime-oci": {"config": {}},
            "network-bridge": {"config": {"podCIDR": "10.213.0.0/24", "bridge": "pintle-test"}},
            # Cgroups are the machine's: their names tell whose they are (machine.py).
            "node-agent": {"config": {"manifests": self.manifests, "logs": self.logs, "nodeAddress": "10.213.0.1",
                                      "cgroupRoot": "/kubepods-" + os.path.basename(self.root),
                                      "nodeApi": {"adminFolder": os.path.join(self.config, "node-api")}}},
        }

    # ---- What is installed ----

    shipped = ("cri", "runtime-oci", "network-bridge", "network-cni", "node-agent", "echo-cpp", "echo-c")

    def install_plugins(self):
        """The build's plugins and libraries as a package lays them down: stripped, and signed with the build's key."""
        built = os.path.join(self.build, "lib/pintle")
        stripped = os.path.join(contained.root(), "stripped")
        if not os.path.exists(stripped):
            os.makedirs(os.path.join(stripped, "plugins"))
            for path in glob.glob(os.path.join(built, "libpintle_*")):
                subprocess.run(["cp", "-a", path, stripped], check=True)
            for name in self.shipped:
                if os.path.exists(os.path.join(built, f"plugins/{name}.so")):
                    shutil.copy(os.path.join(built, f"plugins/{name}.so"), os.path.join(stripped, "plugins"))
            if "PINTLE_TEST_SYMBOLS" not in os.environ:
                subprocess.run(["strip", *glob.glob(os.path.join(stripped, "*.so.*.*")), *glob.glob(os.path.join(stripped, "plugins/*.so"))],
                               check=True)
        subprocess.run(["cp", "-a", os.path.join(stripped, "."), os.path.join(self.root, "lib")], check=True)
        self.sign_plugins()

    def sign_plugins(self):
        listed = glob.glob(os.path.join(self.plugin_folder, "*.so")) + glob.glob(os.path.join(self.root, "lib/libpintle_*.so.?"))
        subprocess.run([self.program("pintle-sign"), "--list", os.path.join(self.build, "signing-key.pem"),
                        os.path.join(self.plugin_folder, "plugins.manifest"), *listed], check=True)

    def built_plugin(self, name):
        return os.path.join(self.build, f"lib/pintle/plugins/{name}.so")

    def _folder(self, name):
        path = os.path.join(self.root, name)
        os.makedirs(path, mode=0o700, exist_ok=True)
        return path

    def program(self, name):
        """A program of the build tree."""
        found = [path for path in (f"bin/{name}", f"kernel/{name}", f"kernel/cli/{name}", f"kernel/isolation/{name}")
                 if os.path.isfile(os.path.join(self.build, path))]
        if not found:
            raise FileNotFoundError(f"{name} is not built in {self.build}")
        return os.path.join(self.build, found[0])

    # ---- The daemon ----

    def write_profile(self):
        profile = {"apiVersion": "pintle.io/v1", "kind": "NodeProfile", "metadata": {"name": "test"}, "spec": {"plugins": self.plugins}}
        path = os.path.join(self.config, "profiles/test.json")
        with open(path + ".part", "w", encoding="utf-8") as file:
            json.dump(profile, file, indent=2)
        os.rename(path + ".part", path)

    def command(self):
        return [self.binary, "--profile", "test", "--state-dir", self.state, "--run-dir", self.run, "--config-dir", self.config,
                "--plugin-dir", self.plugin_folder, "--plugin-host", self.program("pintle-plugin-host")]

    def launch(self):
        """Starts the daemon and returns at once."""
        if not os.listdir(self.plugin_folder):
            self.install_plugins()
        self.write_profile()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def start(self, limit=30):
        """Starts the daemon and returns when it is ready; the seconds that took."""
        begun = time.monotonic()
        self.launch()
        self.wait_ready(limit)
        return time.monotonic() - begun

    def wait_ready(self, limit=30):
        def ready():
            if self.process and self.process.poll() is not None:
                raise AssertionError(f"pintled ended with {self.process.returncode}:\n{self.log_tail()}")
            return self.admin.is_ready()
        try:
            wait_for("pintled is ready", ready, limit, 0.002)
        except Timeout as error:
            raise Timeout(f"{error}\n{self.unready()}\n{self.log_tail()}") from None

    def unready(self):
        try:
            return self.admin.request("GET", "/readyz")[1].decode()
        except OSError as error:
            return str(error)

    @property
    def pid(self):
        return self.process.pid

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """kill -9, as a bug or the out-of-memory killer would."""
        self.process.kill()
        self.process.wait()

    def stop(self, limit=30):
        if self.is_running():
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(limit)

    def log_tail(self, lines=40):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-lines:])

    def pintle(self, *arguments, check=True, **options):
        """The `pintle` command on this node; its standard output."""
        done = subprocess.run([self.program("pintle"), "--socket", self.admin.path, *arguments], capture_output=True,
                              text=True, check=False, env={**os.environ, "PINTLE_PROFILE_PATH": os.path.join(self.config, "profiles"),
                                                           "PINTLE_PLUGIN_PATH": self.plugin_folder}, **options)
        if check and done.returncode:
            raise AssertionError(f"pintle {' '.join(arguments)}: exit {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout if check else done

    def apply(self, plugins=None):
        """`pintle profile apply` of the profile with other plugins; the changes it made."""
        if plugins is not None:
            self.plugins = plugins
        self.write_profile()
        answer = self.admin.send("PUT", "/v1/profile", {"profile": "test"})
        return {change["name"]: change for change in answer["changes"]}

    def plugin(self, name):
        return self.admin.get(f"/v1/plugins/{name}")

    def providers(self, interface):
        """Keys of all generations that serve an interface."""
        return [plugin["key"] for plugin in self.admin.get("/v1/plugins")["plugins"]
                if plugin["state"] in ("running", "retiring", "draining")
                and any(provided["interface"] == interface for provided in plugin["provides"])]

    # ---- Pods ----

    def load_image(self):
        self.pintle("image", "load", pods.image_archive())

    def drop(self, pod):
        """Puts a manifest into the folder, whole or not at all."""
        path = os.path.join(self.manifests, pod["metadata"]["name"] + ".json")
        with open(path + ".part", "w", encoding="utf-8") as file:
            json.dump(pod, file)
        os.rename(path + ".part", path)

    def take(self, name):
        os.unlink(os.path.join(self.manifests, name + ".json"))

    def pods(self):
        return {pod.name: pod for pod in map(Pod, wire.messages(self.admin.call(AGENT, 1), 1))}

    def containers(self):
        """Running containers by id, of all generations of all runtimes."""
        found = {}
        for key in self.providers(RUNTIME):
            for fields in wire.messages(self.admin.call(RUNTIME, 6, provider=key), 1):
                container = Container(fields)
                if container.state == RUNNING:
                    found[container.id] = container
        return found

    def addresses(self):
        """Sandbox id -> its addresses, as the networks tell."""
        found = {}
        for key in self.providers(NETWORK):
            for attachment in wire.messages(self.admin.call(NETWORK, 5, provider=key), 1):
                found[wire.text(attachment, 1)] = [wire.text(address, 1) for address in wire.messages(attachment, 4)]
        return found

    def picture(self):
        """All that survival is about, in one comparable value."""
        return ({container.identity() for container in self.containers().values()},
                {sandbox: tuple(addresses) for sandbox, addresses in self.addresses().items()})

    def wait_for_pods(self, count, limit=60):
        """Until exactly `count` pods run with all their containers."""
        def running():
            present = self.pods()
            return present if len(present) == count and all(pod.is_running() for pod in present.values()) else None
        try:
            return wait_for(f"{count} pods run", running, limit, 0.05) if count else self.wait_for_none(limit)
        except Timeout as error:
            raise Timeout(f"{error}\n{list(self.pods().values())}\n{self.log_tail()}") from None

    def wait_for_none(self, limit=60):
        wait_for("all pods are gone", lambda: not self.pods(), limit, 0.05)
        return {}

    def log_folder(self, pod, container):
        return os.path.join(self.logs, f"{pod.namespace}_{pod.name}_{pod.uid}", container)

    def remove_pods(self, limit=60):
        for name in os.listdir(self.manifests):
            os.unlink(os.path.join(self.manifests, name))
        self.wait_for_none(limit)


class NodeTest(unittest.TestCase):
    """A test with one node, and a machine that is afterwards as it was before."""

    maxDiff = 4000

    def setUp(self):
        self.failures_before = self._failures()
        self.before = machine.Machine()
        self.node = Node(self._testMethodName)
        self.prepare()
        self.node.start()
        if self.runs_pods():
            self.node.load_image()

    def runs_pods(self):
        return "node-agent" in self.node.plugins

    def prepare(self):
        """For tests that change the node's profile before it starts."""

    def _failures(self):
        result = self._outcome.result
        return len(result.failures) + len(result.errors)

    def tearDown(self):
        node = self.node
        failed = self._failures() > self.failures_before
        try:
            if not node.is_running():
                node.start()
            if self.runs_pods():
                node.remove_pods()
            node.stop()
            self.assertEqual(node.process.returncode, 0, "pintled did not end cleanly")
            self.assertEqual(machine.leftovers(self.before), [], "something is left behind")
        except (AssertionError, OSError, AdminError, subprocess.SubprocessError):
            if not failed:
                failed = True
                raise
            print("clean-up failed as well", file=sys.stderr)
        finally:
            if failed:
                print(f"---- the last lines of {node.log}:\n{node.log_tail(100)}", file=sys.stderr)
                if "PINTLE_TEST_KEEP" in os.environ:
                    shutil.copy(node.log, os.path.join(os.environ["PINTLE_TEST_KEEP"], f"{self._testMethodName}-{time.time():.0f}.log"))
            self._end_everything()
            shutil.rmtree(node.root, ignore_errors=True)

    def _end_everything(self):
        """After a failure the next test of this program starts on a clean machine too."""
        if self.node.is_running():
            self.node.kill()
        for pid in processes.alive():
            if pid not in (1, os.getpid()):
                processes.kill_and_wait(pid)
        for line in machine.Machine().difference(self.before):
            if line.startswith("mount left behind: "):
                subprocess.run(["umount", "-l", line.split()[3]], check=False, capture_output=True)
            if line.startswith("link left behind: "):
                subprocess.run(["ip", "link", "delete", line.split()[3]], check=False, capture_output=True)
