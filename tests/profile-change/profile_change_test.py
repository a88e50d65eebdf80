"""Changing a node under its pods: another configuration, another runtime, a new build of a plugin and of the daemon itself.

What must hold: same processes, open connections into pods survive, exec, logs and stop still work on the old containers, the old part
retires by itself when the last of them ends, and nobody who connects to a socket is ever refused.
"""

import copy
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
import unittest

import contained
import pods
import processes
from node import NETWORK, RUNTIME, NodeTest, wait_for

PODS = 20
PORT = 7000


class Connection:
    """A TCP connection into a pod that is used from time to time, until `close`."""

    def __init__(self, address):
        self.address = address.partition("/")[0]
        self.socket = socket.create_connection((self.address, PORT), 10)
        self.asked = 0

    def ask(self):
        self.asked += 1
        line = f"{self.address} {self.asked}\n".encode()
        self.socket.sendall(line)
        got = b""
        while not got.endswith(b"\n"):
            more = self.socket.recv(4096)
            if not more:
                raise ConnectionResetError(f"{self.address} hung up")
            got += more
        return got == line

    def close(self):
        self.socket.close()


class Connecting(threading.Thread):
    """Connects to sockets over and over, as fast as it can, and notes who was refused."""

    def __init__(self, paths):
        super().__init__(daemon=True)
        self.paths, self.refused, self.made = paths, [], 0
        self.ended = threading.Event()

    def run(self):
        while not self.ended.is_set():
            for path in self.paths:
                client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    # A blocking connect waits for room in the queue of a slow machine, where one with a timeout of Python's is EAGAIN.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 10, 0))
                    client.connect(path)
                    self.made += 1
                except OSError as error:
                    self.refused.append(f"{path}: {error}")
                finally:
                    client.close()
            time.sleep(0.0005)  # a bounded loop: the node must get on as well

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join()


class ProfileChange(NodeTest):
    def run_pods(self, count=PODS):
        for index in range(count):
            self.node.drop(pods.pod(f"old-{index}", pods.container("serve", "serve", PORT), pods.container("ticks", "ticks", 20)))
        self.running = self.node.wait_for_pods(count)
        self.expected = self.node.picture()
        self.connections = [self.connect(pod) for pod in self.running.values()]
        self.readers = [pods.LogReader(self.node.log_folder(pod, "ticks")) for pod in self.running.values()]
        self.ask_all()

    def connect(self, pod):
        connection = Connection(pod.addresses[0])
        self.addCleanup(connection.close)
        return connection

    def ask_all(self):
        self.assertEqual([connection.address for connection in self.connections if not connection.ask()], [])

    def check_untouched(self):
        """Nothing of the old pods has changed, and all works on them."""
        identities, addresses = self.node.picture()
        self.assertLessEqual(self.expected[0], identities)
        self.assertEqual({sandbox: addresses.get(sandbox) for sandbox in self.expected[1]}, self.expected[1])
        self.ask_all()
        self.assertEqual(self.node.pintle("pod", "exec", "old-1", "-c", "serve", "--", "/bin/echo", "exec works").strip(), "exec works")
        self.assertIn("serving on", self.node.pintle("pod", "logs", "old-1", "-c", "serve"))
        goals = [(reader, reader.catch_up() + 3) for reader in self.readers]
        wait_for("the logs go on", lambda: all(reader.catch_up() >= goal for reader, goal in goals), 20)
        self.assertEqual([problem for reader in self.readers for problem in reader.problems], [])

    def change(self, name, **config):
        plugins = copy.deepcopy(self.node.plugins)
        plugins[name].setdefault("config", {}).update(config)
        return self.node.apply(plugins)

    def end_old_pods(self):
        for index in range(PODS):
            if os.path.exists(os.path.join(self.node.manifests, f"old-{index}.json")):
                self.node.take(f"old-{index}")
        wait_for("the old pods end", lambda: not [name for name in self.node.pods() if name.startswith("old-")], 60, 0.05)

    def keys(self):
        return {plugin["key"]: plugin["state"] for plugin in self.node.admin.get("/v1/plugins")["plugins"]}

    def check_replacement(self, name, interface):
        """The new part serves new pods, the old one what it owns, until that has ended."""
        self.check_untouched()
        old, new = f"{name}@1", f"{name}@2"
        self.assertEqual(self.keys()[old], "retiring")
        self.assertEqual(self.keys()[new], "running")
        self.node.drop(pods.pod("new", pods.container("serve", "serve", PORT)))
        present = self.node.wait_for_pods(PODS + 1)
        self.assertTrue(self.connect(present["new"]).ask())
        self.node.take("old-0")
        wait_for("an old pod stops", lambda: "old-0" not in self.node.pods(), 30)
        del self.connections[self.index("old-0")], self.readers[self.index("old-0")]
        self.running.pop("old-0")
        self.forget_gone()
        self.check_untouched()
        self.node.kill()  # retiring goes on over a restart
        self.node.start()
        wait_for("the old part retires on", lambda: self.keys().get(old) == "retiring")
        self.check_untouched()
        self.end_old_pods()
        wait_for("the old part retires by itself", lambda: old not in self.keys(), 30)
        self.assertEqual(self.node.providers(interface), [new])
        self.assertTrue(self.node.pods()["new"].is_running())

    def index(self, name):
        return list(self.running).index(name)

    def forget_gone(self):
        """The pods that were ended on purpose are not expected any more."""
        sandboxes = {pod.sandbox for pod in self.running.values()}
        self.expected = ({identity for identity in self.expected[0] if identity[1] in sandboxes},
                         {sandbox: addresses for sandbox, addresses in self.expected[1].items() if sandbox in sandboxes})

    def test_a_changed_network_serves_new_pods_and_old_ones_stay(self):
        self.run_pods()
        changes = self.change("network-bridge", mtu=1400)
        self.assertEqual({name: change["change"] for name, change in changes.items()}, {"network-bridge": "replaced"})
        self.check_replacement("network-bridge", NETWORK)

    @unittest.skipUnless(shutil.which("runc"), "runc is not installed")
    def test_runc_in_place_of_crun_serves_new_pods_and_old_ones_stay(self):
        self.run_pods()
        changes = self.change("runtime-oci", runtime="runc")
        self.assertEqual({name: change["change"] for name, change in changes.items()}, {"runtime-oci": "replaced"})
        self.check_replacement("runtime-oci", RUNTIME)

    @unittest.skipUnless(shutil.which("runc"), "runc is not installed")
    def test_a_container_of_an_old_pod_is_started_anew_by_the_old_runtime(self):
        self.run_pods(1)
        self.change("runtime-oci", runtime="runc")
        before = self.node.containers()
        ended = next(container for container in before.values() if processes.read(f"/proc/{container.pid}/cmdline").split("\0")[1] == "ticks")
        processes.kill_and_wait(ended.pid)
        wait_for("another one runs in its place", lambda: len(self.node.containers()) == 2 and ended.id not in self.node.containers())
        self.assertEqual({container.sandbox for container in self.node.containers().values()}, {ended.sandbox})
        self.ask_all()

    def test_apply_of_the_same_profile_touches_nothing(self):
        self.run_pods(2)
        before = self.node.admin.get("/v1/status")
        self.assertEqual(self.node.apply(), {})
        after = self.node.admin.get("/v1/status")
        self.assertEqual([(plugin["key"], plugin["since"]) for plugin in after["plugins"]],
                         [(plugin["key"], plugin["since"]) for plugin in before["plugins"]])

    # ---- New builds ----

    def another_build(self, path):
        """The same program with other bytes in it that no code reads."""
        self.builds += 1
        section = os.path.join(self.node.root, "version")
        with open(section, "w", encoding="ascii") as file:
            file.write("another build")
        subprocess.run(["objcopy", "--add-section", f".pintle.test.{self.builds}={section}", path, path + ".new"], check=True)
        os.rename(path + ".new", path)

    def test_a_new_build_of_a_plugin_goes_live_and_nobody_is_refused(self):
        self.run_pods()
        pid = self.node.pid
        with Connecting([self.node.cri_socket, self.node.admin.path]) as connecting:
            self.another_build(os.path.join(self.node.plugin_folder, "runtime-oci.so"))
            self.node.sign_plugins()
            answer = self.node.admin.send("POST", "/v1/plugins/runtime-oci/restart")
            self.wait_for_restart(answer)
            self.check_untouched()
        self.assertEqual(connecting.refused, [], f"of {connecting.made}")
        self.assertEqual(self.node.admin.get("/v1/status")["pid"], pid)
        print(f"  {connecting.made} connects, none refused")

    def wait_for_restart(self, answer):
        if answer.get("reexec"):
            self.started = wait_for("the daemon has replaced itself", self.replaced, 20)
        self.node.wait_ready()

    def replaced(self):
        started = self.node.admin.get("/v1/status")["started"]
        return started if started != self.started else None

    def test_a_new_build_of_the_daemon_goes_live_and_nobody_is_refused(self):
        """Five times in a row, with clients that connect without a pause."""
        self.run_pods()
        pid = self.node.pid
        with Connecting([self.node.cri_socket, self.node.admin.path]) as connecting:
            for _ in range(5):
                self.started = self.node.admin.get("/v1/status")["started"]
                self.another_build(self.node.binary)
                self.node.admin.send("POST", "/v1/reexec")
                wait_for("the daemon has replaced itself", self.replaced, 20)
                self.node.wait_ready()
            self.check_untouched()
        self.assertEqual(connecting.refused, [], f"of {connecting.made}")
        self.assertEqual(self.node.admin.get("/v1/status")["pid"], pid)
        print(f"  {connecting.made} connects, none refused")

    def setUp(self):
        super().setUp()
        self.started = self.node.admin.get("/v1/status")["started"]

    def prepare(self):
        """A daemon of its own, because this test replaces it; what is installed along with it lies beside its folder."""
        self.builds = 0
        prefix = os.path.join(self.node.root, "prefix")
        os.makedirs(os.path.join(prefix, "sbin"))
        os.symlink(os.path.join(self.node.build, "lib"), os.path.join(prefix, "lib"))
        copy_of = os.path.join(prefix, "sbin", "pintled")
        shutil.copy(self.node.binary, copy_of)
        self.node.binary = copy_of


if __name__ == "__main__":
    contained.main()
