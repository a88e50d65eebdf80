"""crictl against a node without an agent: every verb that a person debugs a node with, what it answers to mistakes, and what a killed
daemon changes about all that: nothing.

crictl is a peer (tests/peers/build.sh crictl); without it the test skips itself. PINTLE_CRICTL names another one.
"""

import json
import os
import random
import subprocess
import threading
import time
import unittest

import contained
import peers
import pods
import processes
from node import NodeTest, wait_for

CRICTL = peers.find("crictl")


class Failed(AssertionError):
    pass


@unittest.skipUnless(CRICTL, "crictl is not here: tests/peers/build.sh crictl builds it")
class Crictl(NodeTest):
    def prepare(self):
        del self.node.plugins["node-agent"]
        # The path of a Unix socket is at most 107 characters long.
        self.node.cri_socket = os.path.join(contained.root(), "cri.sock")
        self.node.plugins["cri"]["config"].update(socket=self.node.cri_socket)
        self.files = os.path.join(self.node.root, "crictl")
        os.makedirs(self.files, exist_ok=True)

    def setUp(self):
        super().setUp()
        self.node.load_image()

    def tearDown(self):
        if CRICTL and self.node.is_running():
            for pod in self.run_crictl("pods", "-q", check=False).stdout.split():
                self.run_crictl("rmp", "-f", pod, check=False)
        super().tearDown()

    # ---- The command ----

    def run_crictl(self, *arguments, check=True, timeout=60):
        endpoint = "unix://" + self.node.cri_socket
        done = subprocess.run([CRICTL, "--runtime-endpoint", endpoint, "--image-endpoint", endpoint, *map(str, arguments)],
                              capture_output=True, text=True, timeout=timeout, check=False,
                              env={**os.environ, "HOME": self.files})
        if check and done.returncode:
            raise Failed(f"crictl {' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stderr}{done.stdout}\n{self.node.log_tail()}")
        return done

    def crictl(self, *arguments, **options):
        return self.run_crictl(*arguments, **options).stdout.strip()

    def json(self, *arguments):
        return json.loads(self.crictl(arguments[0], "-o", "json", *arguments[1:]))

    def refused(self, *arguments):
        """What crictl says of a request that must fail."""
        done = self.run_crictl(*arguments, check=False)
        self.assertNotEqual(done.returncode, 0, f"crictl {arguments} succeeded: {done.stdout}")
        return done.stderr + done.stdout

    def write(self, name, content):
        path = os.path.join(self.files, name)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file)
        return path

    def pod_config(self, name, **more):
        config = {"metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "attempt": 0}, "hostname": name,
                  "log_directory": os.path.join(self.node.logs, f"default_{name}_uid-{name}"), "labels": {"app": name},
                  "dns_config": {"servers": ["10.96.0.10"], "searches": ["svc.cluster.local"]},
                  "linux": {"security_context": {"namespace_options": {"network": 0, "pid": 1, "ipc": 0}}}}
        return self.write(f"pod-{name}.json", {**config, **more})

    def container_config(self, name, *command, **more):
        config = {"metadata": {"name": name, "attempt": 0}, "image": {"image": pods.IMAGE}, "command": list(command),
                  "log_path": f"{name}/0.log", "envs": [{"key": "GREETING", "value": "hello"}], "labels": {"tier": name}, "linux": {}}
        return self.write(f"container-{name}.json", {**config, **more})

    def run_pod(self, name):
        config = self.pod_config(name)
        return self.crictl("runp", config), config

    def run_container(self, pod, config, name, *command, **more):
        container = self.crictl("create", pod, self.container_config(name, *command, **more), config)
        self.assertEqual(self.crictl("start", container), container)
        return container

    def state(self, container):
        return self.json("inspect", container)["status"]["state"]

    # ---- The verbs ----

    def test_every_verb_from_the_first_pod_to_the_last_image(self):
        self.assertIn("pintle", self.crictl("version"))
        pod, config = self.run_pod("web")
        self.assertEqual([item["id"] for item in self.json("pods", "--name", "web")["items"]], [pod])
        self.assertEqual(self.json("pods", "--state", "NotReady")["items"], [])

        status = self.json("inspectp", pod)
        self.assertEqual(status["status"]["state"], "SANDBOX_READY")
        address = status["status"]["network"]["ip"]
        self.assertTrue(address.startswith("10.213.0."), address)
        self.assertTrue(os.path.exists(status["info"]["namespaces"]["network"]))
        self.assertEqual(status["info"]["runtime"], "runtime-oci@1")

        container = self.run_container(pod, config, "main", "/bin/workload", "serve", "8080")
        self.assertEqual([item["id"] for item in self.json("ps")["containers"]], [container])
        self.assertEqual([item["id"] for item in self.json("ps", "--pod", pod[:12])["containers"]], [container])
        inspected = self.json("inspect", container)
        self.assertEqual(inspected["status"]["state"], "CONTAINER_RUNNING")
        self.assertEqual(inspected["status"]["metadata"]["name"], "main")
        self.assertEqual(inspected["info"]["sandboxID"], pod)
        self.assertTrue(processes.alive().get(inspected["info"]["pid"]), "the PID that inspect shows lives")
        self.assertGreater(inspected["status"]["startedAt"], inspected["status"]["createdAt"])

        wait_for("the log has the container's line", lambda: "serving on 8080" in self.crictl("logs", container), 10)
        self.assertEqual(self.ask(address, 8080, "ping"), "ping", "the container answers on the pod's address")

        self.assertEqual(self.crictl("exec", "-s", container, "/bin/hostname"), "web")
        self.assertEqual(self.crictl("exec", "-s", container, "/bin/sh", "-c", "echo $GREETING"), "hello")
        self.assertIn("nameserver 10.96.0.10", self.crictl("exec", "-s", container, "/bin/cat", "/etc/resolv.conf"))
        self.assertIn(f"{address}\tweb", self.crictl("exec", "-s", container, "/bin/cat", "/etc/hosts"))
        self.assertIn("exited with 3: err", self.refused("exec", "-s", container, "/bin/sh", "-c", "echo out; echo err >&2; exit 3"))
        self.assertIn("timed out", self.refused("exec", "-s", "--timeout", "1", container, "/bin/sleep", "30"))

        self.assertEqual(self.crictl("stop", "--timeout", "5", container), container)
        stopped = self.json("inspect", container)["status"]
        self.assertEqual((stopped["state"], stopped["exitCode"], stopped["reason"]), ("CONTAINER_EXITED", 0, "Completed"))
        self.assertGreater(stopped["finishedAt"], stopped["startedAt"])
        self.assertIn("serving on 8080", self.crictl("logs", container), "the log outlives its container")
        self.crictl("stop", container)  # twice is no mistake
        self.crictl("rm", container)
        self.assertEqual(self.json("ps", "-a")["containers"], [])
        self.crictl("stopp", pod)
        self.assertEqual(self.json("inspectp", pod)["status"]["state"], "SANDBOX_NOTREADY")
        self.crictl("stopp", pod)
        self.crictl("rmp", pod)
        self.assertEqual(self.json("pods")["items"], [])

        images = self.json("images")["images"]
        self.assertEqual([image["repoTags"] for image in images], [[pods.IMAGE]])
        self.assertEqual(self.json("inspecti", pods.IMAGE)["status"]["id"], images[0]["id"])
        self.assertIs(self.json("inspecti", pods.IMAGE)["status"]["pinned"], True, "it was loaded")
        self.crictl("rmi", pods.IMAGE)
        self.assertEqual(self.json("images")["images"], [])

    def ask(self, address, port, text):
        import socket
        def answer():
            with socket.create_connection((address, port), timeout=5) as connection:
                connection.sendall(text.encode() + b"\n")
                return connection.makefile().readline().strip()
        return wait_for("the pod takes connections", answer, 10)

    def test_how_a_container_ended_is_told_exactly(self):
        pod, config = self.run_pod("ends")
        for name, command, expected in (
                ("good", ("/bin/workload", "exit", "0"), (0, "Completed")),
                ("bad", ("/bin/workload", "exit", "7"), (7, "Error"))):
            container = self.run_container(pod, config, name, *command)
            wait_for(f"{name} ends", lambda: self.state(container) == "CONTAINER_EXITED", 10)
            status = self.json("inspect", container)["status"]
            self.assertEqual((status["exitCode"], status["reason"]), expected, name)
        killed = self.run_container(pod, config, "killed", "/bin/workload", "sleep")
        os.kill(self.json("inspect", killed)["info"]["pid"], 9)
        wait_for("the killed one ends", lambda: self.state(killed) == "CONTAINER_EXITED", 10)
        status = self.json("inspect", killed)["status"]
        self.assertEqual((status["exitCode"], status["reason"]), (137, "Error"))
        stubborn = self.run_container(pod, config, "stubborn", "/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done")
        begun = time.monotonic()
        self.crictl("stop", "--timeout", "1", stubborn)
        self.assertGreater(time.monotonic() - begun, 0.9, "the grace period was not waited for")
        self.assertEqual(self.json("inspect", stubborn)["status"]["exitCode"], 137)

    def test_what_containers_of_a_pod_share(self):
        pod, config = self.run_pod("shared")
        first = self.run_container(pod, config, "first", "/bin/workload", "serve", "9000")
        second = self.run_container(pod, config, "second", "/bin/workload", "sleep")
        pids = [self.json("inspect", container)["info"]["pid"] for container in (first, second)]
        namespaces = [{kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("net", "ipc", "uts", "pid", "mnt")} for pid in pids]
        for kind in ("net", "ipc", "uts"):
            self.assertEqual(namespaces[0][kind], namespaces[1][kind], kind)
            self.assertNotEqual(namespaces[0][kind], os.readlink(f"/proc/self/ns/{kind}"), kind)
        for kind in ("pid", "mnt"):
            self.assertNotEqual(namespaces[0][kind], namespaces[1][kind], kind)

    def test_a_pod_whose_containers_share_their_processes(self):
        config = self.pod_config("family", linux={"security_context": {"namespace_options": {"pid": 0}}})
        pod = self.crictl("runp", config)
        first = self.json("inspectp", pod)["info"]["pid"]
        one, two = (self.run_container(pod, config, name, "/bin/workload", "sleep") for name in ("one", "two"))
        pids = [self.json("inspect", container)["info"]["pid"] for container in (one, two)]
        self.assertEqual({os.readlink(f"/proc/{pid}/ns/pid") for pid in pids}, {os.readlink(f"/proc/{first}/ns/pid")})
        names = self.crictl("exec", "-s", one, "/bin/sh", "-c", "for p in /proc/[0-9]*; do cat $p/comm; done")
        self.assertEqual(names.split().count("workload"), 2, names)
        self.assertIn("pintle-pod-init", names)
        self.assertIn("denied", self.refused("exec", "-s", one, "/bin/ls", "/proc/1/root/etc"))
        self.crictl("stop", one)
        self.assertEqual(self.state(two), "CONTAINER_RUNNING", "it ended with the other container")
        self.node.kill()
        self.node.start()
        self.assertEqual(self.json("inspectp", pod)["status"]["state"], "SANDBOX_READY")
        self.crictl("rmp", "-f", pod)
        self.assertFalse(os.path.exists(f"/proc/{first}"), "the pod's first process runs on")

    # ---- Mistakes ----

    def test_mistakes_get_one_clear_line_and_leave_nothing(self):
        self.assertIn("not found", self.refused("inspectp", "0123456789ab"))
        self.assertIn("not found", self.refused("inspect", "0123456789ab"))
        self.assertIn("not found", self.refused("exec", "-s", "0123456789ab", "/bin/true"))
        for change, complaint in (({"metadata": {"name": "", "namespace": "n", "uid": "u"}}, "metadata.name"),
                                  ({"hostname": "no such host name"}, "hostname"),
                                  ({"linux": {"sysctls": {"kernel.core_pattern": "|/bin/sh"}}}, "kernel.core_pattern"),
                                  ({"linux": {"sysctls": {"net.ipv4.ip_forward": "perhaps"}}}, "net.ipv4.ip_forward"),
                                  ({"dns_config": {"servers": ["not-an-address"]}}, "not-an-address"),
                                  ({"port_mappings": [{"container_port": 99999}]}, "port_mappings")):
            self.assertIn(complaint, self.refused("runp", self.pod_config("bad", **change)))
        self.assertIn("gvisor", self.refused("runp", "--runtime", "gvisor", self.pod_config("bad")))
        self.assertEqual(self.json("pods")["items"], [])
        self.assertEqual(self.node.addresses(), {}, "a refused pod keeps an address")

        pod, config = self.run_pod("good")
        self.assertIn(pod, self.refused("runp", config), "the name's holder is told")
        for change, complaint in (({"image": {"image": "absent.example/nothing:1"}}, "absent.example/nothing:1"),
                                  ({"log_path": "../../escape.log"}, "escape.log"),
                                  ({"working_dir": "nowhere"}, "working_dir"),
                                  ({"envs": [{"key": "A=B", "value": "c"}]}, "A=B")):
            self.assertIn(complaint, self.refused("create", pod, self.container_config("bad", "/bin/workload", **change), config))
        self.assertEqual(self.json("ps", "-a")["containers"], [])
        self.assertIn("no-such-program", self.refused("create", pod, self.container_config("missing", "/bin/no-such-program"), config))
        self.assertEqual(self.json("ps", "-a")["containers"], [])

        waiting = self.crictl("create", pod, self.container_config("waiting", "/bin/workload", "exit", "0"), config)
        self.assertIn("does not run", self.refused("exec", "-s", waiting, "/bin/true"))
        self.crictl("start", waiting)
        wait_for("it ends", lambda: self.state(waiting) == "CONTAINER_EXITED", 10)
        self.assertIn("started once", self.refused("start", waiting))
        for verb in (("exec", waiting, "/bin/true"), ("attach", waiting), ("port-forward", pod, "8080")):
            self.assertIn("not served yet", self.refused(*verb))

    # ---- The daemon comes and goes ----

    def test_a_killed_daemon_changes_nothing(self):
        made = []
        for index in range(3):
            pod, config = self.run_pod(f"kept-{index}")
            made += [self.run_container(pod, config, f"kept-{index}-{member}", "/bin/workload", "ticks") for member in ("a", "b")]
        ended = self.run_container(pod, config, "ends-meanwhile", "/bin/sleep", "1")
        before = self.node.picture()
        self.node.kill()
        time.sleep(1.2)  # the container ends while nobody looks
        took = self.node.start()
        print(f"ready {took * 1000:.0f} ms after the restart", flush=True)
        self.assertEqual(self.state(ended), "CONTAINER_EXITED")
        self.assertEqual(self.json("inspect", ended)["status"]["exitCode"], 0)
        self.assertEqual({item["id"] for item in self.json("ps")["containers"]}, set(made))
        after = self.node.picture()
        self.assertEqual(after[0], {identity for identity in before[0] if identity[0] != ended})
        self.assertEqual(after[1], before[1])
        for container in made:
            self.assertEqual(self.crictl("exec", "-s", container, "/bin/echo", "there"), "there")

    def test_kills_while_pods_come_and_go_leave_nothing(self):
        rng = random.Random(7)
        for round_ in range(8):
            name = f"torn-{round_}"

            def come_and_go():
                config = self.pod_config(name)
                pod = self.run_crictl("runp", config, check=False).stdout.strip()
                if not pod:
                    return
                container = self.run_crictl("create", pod, self.container_config(name, "/bin/workload", "sleep"), config, check=False).stdout.strip()
                if container:
                    self.run_crictl("start", container, check=False)
                self.run_crictl("rmp", "-f", pod, check=False)

            client = threading.Thread(target=come_and_go)
            client.start()
            time.sleep(rng.uniform(0.02, 0.5))
            self.node.kill()
            client.join()
            self.node.start()
        # What a client was told is still there, and only that: remove it and look what is left.
        for pod in self.json("pods")["items"]:
            self.crictl("rmp", "-f", pod["id"])
        wait_for("nothing is left", lambda: not self.node.containers() and not self.node.addresses() and not self.json("ps", "-a")["containers"], 10)

    def test_pods_can_be_removed_after_their_namespaces_are_gone(self):
        pod, config = self.run_pod("lost")
        self.run_container(pod, config, "main", "/bin/workload", "sleep")
        folder = os.path.dirname(self.json("inspectp", pod)["info"]["namespaces"]["network"])
        container = self.json("ps")["containers"][0]["id"]
        self.node.kill()
        # As a reboot leaves it: neither processes nor mounts, the records still there.
        processes.kill_and_wait(next(identity[2] for identity in self.node_identities(container)))
        for mount in sorted(os.listdir(folder)):
            subprocess.run(["umount", os.path.join(folder, mount)], check=True)
        self.node.start()
        self.assertEqual(self.json("inspectp", pod)["status"]["state"], "SANDBOX_NOTREADY")
        self.assertEqual(self.state(container), "CONTAINER_EXITED")
        self.crictl("rmp", pod)
        self.assertEqual(self.json("pods")["items"], [])
        self.assertEqual(self.node.addresses(), {})

    def node_identities(self, container):
        return [identity for identity in self.known if identity[0] == container]

    def run_container(self, pod, config, name, *command, **more):
        container = self.crictl("create", pod, self.container_config(name, *command, **more), config)
        self.assertEqual(self.crictl("start", container), container)
        self.known = self.node.picture()[0]
        return container

    def test_a_changed_config_refuses_no_call(self):
        pod, config = self.run_pod("stays")
        container = self.run_container(pod, config, "main", "/bin/workload", "sleep")
        before = self.node.picture()
        asked, refused, over = [], [], threading.Event()

        def keep_asking():
            while not over.is_set():
                done = self.run_crictl("ps", "-q", check=False)
                asked.append(done.stdout.strip())
                if done.returncode:
                    refused.append(done.stderr)

        client = threading.Thread(target=keep_asking)
        client.start()
        plugins = json.loads(json.dumps(self.node.plugins))
        try:
            for megabytes in (32, 16):
                plugins["cri"]["config"]["shmMegabytes"] = megabytes
                self.assertEqual(self.node.apply(plugins)["cri"]["change"], "replaced")
                wait_for("the former generation has ended",
                         lambda: len(self.node.providers("runtime.v1.RuntimeService")) == 1, 10)
        finally:
            over.set()
            client.join()
        self.assertEqual(refused, [])
        self.assertEqual(set(asked), {container}, "at some time crictl did not see the container")
        self.assertEqual(self.node.picture(), before)
        self.assertEqual(self.crictl("exec", "-s", container, "/bin/echo", "there"), "there")
        new, config = self.run_pod("new")
        second = self.run_container(new, config, "main", "/bin/workload", "sleep")
        self.assertIn("16.0M", self.crictl("exec", "-s", second, "/bin/busybox", "df", "-h", "/dev/shm"))
        self.crictl("rmp", "-f", pod)

    # ---- Time ----

    def test_what_the_operations_take(self):
        for index in range(20):
            pod, config = self.run_pod(f"timed-{index}")
            self.run_container(pod, config, f"timed-{index}", "/bin/workload", "sleep")
        for pod in self.json("pods")["items"]:
            self.crictl("stopp", pod["id"])
            self.crictl("rmp", pod["id"])
        metrics = self.node.admin.request("GET", "/metrics")[1].decode()
        sums = {}
        for line in metrics.splitlines():
            if line.startswith(("pintle_cri_operation_seconds_sum", "pintle_cri_operation_seconds_count")):
                kind = "sum" if "_sum" in line else "count"
                operation = line.split('operation="')[1].split('"')[0]
                sums.setdefault(operation, {})[kind] = float(line.rsplit(" ", 1)[1])
        for operation, parts in sorted(sums.items()):
            print(f"{operation}: {parts['sum'] / parts['count'] * 1000:.2f} ms on average of {parts['count']:.0f}", flush=True)
        self.assertIn("run_pod_sandbox", sums)


if __name__ == "__main__":
    contained.main()
