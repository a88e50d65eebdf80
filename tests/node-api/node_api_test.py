"""The node API on 10250: who may use it, and that it answers as kubelet does. Peers are curl, kubectl and openssl."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "pods"))

import contained
import pods
import prometheus_text
from node import wait_for
from pod_case import PodCase, pod, shell

API = "https://127.0.0.1:10250"
HEALTH = "http://127.0.0.1:10248"


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=60, **options)


def openssl(*arguments):
    done = run("openssl", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def counting(name="one", pause="0.05"):
    """Writes 1, 2, 3, ..."""
    return shell(name, f"i=0; while true; do i=$((i+1)); echo line $i; /bin/busybox sleep {pause}; done")


class NodeApiCase(PodCase):
    def prepare(self):
        super().prepare()
        self.api = self.node.plugins["node-agent"]["config"]["nodeApi"]

    def setUp(self):
        super().setUp()
        self.wait_for_api()

    @property
    def credentials(self):
        return os.path.join(self.node.config, "node-api")

    def pki(self, name):
        return os.path.join(self.node.state, "shared", "node-agent", "pki", name)

    def as_admin(self):
        return ["--cacert", f"{self.credentials}/ca.crt", "--cert", f"{self.credentials}/admin.crt", "--key", f"{self.credentials}/admin.key"]

    def ask(self, path, *options, identity=None):
        """The status and the body of an answer."""
        done = run("curl", "-sS", "--max-time", "40", "-w", "\n%{http_code}", *(self.as_admin() if identity is None else identity), *options,
                   path if path.startswith("http") else API + path)
        if done.returncode:
            raise OSError(f"curl {path}: {done.stderr}")
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def get(self, path):
        status, body = self.ask(path)
        self.assertEqual(status, 200, body)
        return body

    def post(self, manifest, kind="application/json"):
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        path = os.path.join(self.node.root, "posted")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return self.ask("/pods", "-X", "POST", "-H", f"Content-Type: {kind}", "--data-binary", f"@{path}")

    def wait_for_api(self):
        """Until it serves; whom it serves is for the cases to say."""
        wait_for("the node API answers", lambda: self.ask("/healthz")[0] in (200, 401, 403), 30)

    def wait_for_running(self, name):
        def running():
            found = self.node.pods().get(name)
            return found if found and found.is_running() else None
        return wait_for(f"{name} runs", running, 30)

    def remove_posted(self):
        for one in list(self.node.pods().values()):
            self.ask(f"/pods/{one.namespace}/{one.name}?gracePeriodSeconds=0", "-X", "DELETE")
        wait_for("all pods are gone", lambda: not self.node.pods(), 30)


class Access(NodeApiCase):
    def runs_pods(self):
        return False

    def test_closed_without_a_certificate_that_holds(self):
        folder = self.node.root
        authority = ["--cacert", f"{self.credentials}/ca.crt"]
        for path in ("/pods", "/healthz", "/metrics", "/containerLogs/a/b/c", "/nothing", "/stats/summary"):
            status, body = self.ask(path, identity=authority)
            self.assertEqual(status, 401, path)
            self.assertIn("Unauthorized: this needs a client certificate", body)
            self.assertEqual(body.count("\n"), 1)
        self.assertEqual(self.ask("/pods", "-X", "POST", "-d", "{}", identity=authority)[0], 401)
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/O=system:masters/CN=admin",
                "-keyout", f"{folder}/stranger.key", "-out", f"{folder}/stranger.crt")
        status, body = self.ask("/pods", identity=[*authority, "--cert", f"{folder}/stranger.crt", "--key", f"{folder}/stranger.key"])
        self.assertEqual(status, 401)
        self.assertIn("the client certificate does not hold: self-signed certificate", body)
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/O=viewers/CN=eve", "-keyout",
                f"{folder}/eve.key", "-out", f"{folder}/eve.csr")
        openssl("x509", "-req", "-in", f"{folder}/eve.csr", "-CA", self.pki("ca.crt"), "-CAkey", self.pki("ca.key"), "-CAcreateserial", "-out",
                f"{folder}/eve.crt")
        status, body = self.ask("/pods", identity=[*authority, "--cert", f"{folder}/eve.crt", "--key", f"{folder}/eve.key"])
        self.assertEqual(status, 403)
        self.assertIn("Forbidden (user=eve)", body)
        os.unlink(self.pki("ca.srl")) if os.path.exists(self.pki("ca.srl")) else None
        self.assertEqual(self.ask(HEALTH + "/healthz", identity=[]), (200, "ok"))
        self.assertEqual(self.ask(HEALTH + "/pods", identity=[])[0], 404)
        self.assertIn("HTTP request to an HTTPS server", self.ask("http://127.0.0.1:10250/pods", identity=[])[1])
        self.assertEqual(self.ask("/nothing")[0], 404)
        self.assertEqual(self.ask("/metrics", "-X", "PUT")[0], 405)

    def test_files_are_made_for_their_owners(self):
        for name in ("ca.key", "server.key", "admin.key"):
            self.assertEqual(os.stat(self.pki(name)).st_mode & 0o7777, 0o600, name)
        self.assertEqual(os.stat(os.path.dirname(self.pki("ca.key"))).st_mode & 0o7777, 0o700)
        self.assertEqual(sorted(os.listdir(self.credentials)), ["admin.crt", "admin.key", "ca.crt"])
        self.assertEqual(os.stat(self.credentials).st_mode & 0o7777, 0o700)
        self.assertEqual(os.stat(os.path.join(self.credentials, "admin.key")).st_mode & 0o7777, 0o600)
        text = openssl("x509", "-noout", "-text", "-in", self.pki("server.crt"))
        for name in ("DNS:localhost", "IP Address:127.0.0.1", "IP Address:10.213.0.1"):
            self.assertIn(name, text)
        authority = openssl("x509", "-noout", "-fingerprint", "-in", self.pki("ca.crt"))
        self.node.stop()
        shutil.rmtree(self.credentials)
        self.node.start()
        self.wait_for_api()
        self.assertEqual(openssl("x509", "-noout", "-fingerprint", "-in", os.path.join(self.credentials, "ca.crt")), authority)

    def test_damaged_certificates_are_made_anew(self):
        for name in ("ca.crt", "ca.key", "server.crt", "server.key", "admin.crt", "admin.key"):
            self.node.kill()
            os.truncate(self.pki(name), os.path.getsize(self.pki(name)) // 2)
            self.node.start()
            self.wait_for_api()

    def test_a_restart_in_place_refuses_nobody(self):
        refused, made, over = [], [], threading.Event()

        def connect():
            while not over.is_set():
                try:
                    socket.create_connection(("127.0.0.1", 10250), timeout=20).close()
                    made.append(1)
                except OSError as error:
                    refused.append(error)
                time.sleep(0.001)
        connecting = threading.Thread(target=connect, daemon=True)
        connecting.start()
        for _ in range(3):
            started = self.node.admin.get("/v1/status")["started"]
            self.node.admin.send("POST", "/v1/reexec")
            wait_for("the daemon has replaced itself", lambda: self.node.admin.get("/v1/status")["started"] != started, 20)
            self.node.wait_ready()
            self.wait_for_api()
        over.set()
        connecting.join()
        self.assertEqual(refused, [], f"of {len(made)}")

    def test_slow_clients_are_bounded(self):
        slow = []
        try:
            for _ in range(200):
                slow.append(socket.create_connection(("127.0.0.1", 10250), timeout=30))
            begun = time.monotonic()
            self.assertEqual(self.ask("/healthz"), (200, "ok"))
            self.assertLess(time.monotonic() - begun, 25)
            for one in slow[:50]:
                one.settimeout(30)
                self.assertEqual(one.recv(1), b"", "a client that says nothing is not cut off")
        finally:
            for one in slow:
                one.close()

    def test_idle_connections_make_room(self):
        context = ssl.create_default_context(cafile=f"{self.credentials}/ca.crt")
        idle = []
        try:
            for _ in range(128):  # all that the server keeps
                raw = socket.create_connection(("127.0.0.1", 10250), timeout=30)
                idle.append(context.wrap_socket(raw, server_hostname="localhost"))
            try:
                answer = self.ask("/healthz")
            except OSError as error:
                answer = str(error)
            self.assertEqual(answer, (200, "ok"), "idle connections keep others out")
            self.assertEqual(idle[0].recv(1), b"", "the one that was idle longest makes room")
        finally:
            for one in idle:
                one.close()

    def test_hostile_requests_end_one_connection_only(self):
        context = ssl.create_default_context(cafile=f"{self.credentials}/ca.crt")
        context.load_cert_chain(f"{self.credentials}/admin.crt", f"{self.credentials}/admin.key")
        for text in (b"GET /" + b"a" * 40000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 100 + b"\r\n\r\n", b"GET /containerLogs/%2e%2e/%2f/%00 HTTP/1.1\r\nHost: x\r\n\r\n",
                     b"POST /pods HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
                     b"POST /pods HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nno chunk\r\n"):
            with socket.create_connection(("127.0.0.1", 10250), timeout=30) as raw, context.wrap_socket(raw, server_hostname="localhost") as one:
                one.sendall(text)
                self.assertRegex(one.recv(4096), rb"^HTTP/1.1 4[0-9][0-9] ", text[:40])
        self.assertEqual(self.ask("/containerLogs/..%2f/x/y?tailLines=1")[0], 404)
        self.assertEqual(self.ask("/healthz"), (200, "ok"))


class Renewal(NodeApiCase):
    def prepare(self):
        super().prepare()
        self.api["certificateHours"] = 0.002  # 7.2 s

    def runs_pods(self):
        return False

    def test_certificates_are_renewed_while_the_server_goes_on(self):
        def serials():
            with socket.create_connection(("127.0.0.1", 10250), timeout=10) as raw:
                context = ssl.create_default_context(cafile=f"{self.credentials}/ca.crt")
                with context.wrap_socket(raw, server_hostname="localhost") as connected:
                    server = connected.getpeercert()["serialNumber"]
            return server, openssl("x509", "-noout", "-serial", "-in", f"{self.credentials}/admin.crt")
        first, daemon = serials(), self.node.pid
        second = wait_for("both certificates are new", lambda: all(a != b for a, b in zip(first, serials())) and serials(), 30, 0.2)
        self.assertNotEqual(first, second)
        self.assertEqual(self.node.pid, daemon)
        self.assertEqual(self.ask("/healthz"), (200, "ok"))


class OwnPki(NodeApiCase):
    def prepare(self):
        super().prepare()
        folder = self.folder = os.path.join(self.node.root, "pki")
        os.makedirs(folder)
        new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        openssl(*new, "-x509", "-subj", "/CN=our authority", "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt")
        for name, subject in (("server", "/CN=here"), ("admin", "/O=operators/CN=jane")):
            openssl(*new, "-subj", subject, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.csr")
            openssl("x509", "-req", "-copy_extensions", "copy", "-in", f"{folder}/{name}.csr", "-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key",
                    "-CAcreateserial", "-out", f"{folder}/{name}.crt")
        self.api.update(certificate=f"{folder}/server.crt", key=f"{folder}/server.key", clientAuthority=f"{folder}/ca.crt",
                        groups=["operators"], address="127.0.0.1", healthPort=0)

    def runs_pods(self):
        return False

    @property
    def credentials(self):
        return self.folder

    def test_the_administrators_own_pki(self):
        self.assertEqual(self.ask("/healthz"), (200, "ok"))
        self.assertFalse(os.path.exists(self.pki("ca.key")))
        with self.assertRaisesRegex(OSError, "onnect"):
            self.ask(HEALTH + "/healthz", identity=[])
        changed = self.node.plugins
        changed["node-agent"]["config"]["nodeApi"]["key"] = f"{self.folder}/missing.key"
        self.node.apply(changed)
        wait_for("the missing file is named", lambda: "missing.key" in self.node.unready())


class Answers(NodeApiCase):
    def test_pods_as_kubectl_reads_them(self):
        found, _ = self.run_pod(pod("web", counting()))
        listed = json.loads(self.get("/pods"))
        self.assertEqual((listed["kind"], listed["apiVersion"]), ("PodList", "v1"))
        self.assertEqual(len(listed["items"]), 1)
        item = listed["items"][0]
        self.assertNotIn("kind", item)
        self.assertEqual((item["metadata"]["name"], item["metadata"]["uid"], item["status"]["phase"]), ("web", found.uid, "Running"))
        self.assertEqual(item["metadata"]["annotations"]["kubernetes.io/config.source"], "file")
        running = json.loads(self.get("/runningpods/"))["items"]
        self.assertEqual([(one["metadata"]["uid"], one["spec"]["containers"][0]["name"]) for one in running], [(found.uid, "one")])
        if not shutil.which("kubectl"):
            return
        told = run("kubectl", "--server", API, "--certificate-authority", f"{self.credentials}/ca.crt", "--client-certificate",
                   f"{self.credentials}/admin.crt", "--client-key", f"{self.credentials}/admin.key", "get", "--raw", "/pods")
        self.assertEqual(told.returncode, 0, told.stderr)
        self.assertEqual(json.loads(told.stdout)["items"][0]["metadata"]["uid"], found.uid)

    def test_logs_as_they_are(self):
        script = "for i in 1 2 3 4 5; do echo line $i; /bin/busybox sleep 0.2; done; echo wrong >&2; /bin/busybox sleep 1000"
        found, _ = self.run_pod(pod("log", shell("one", script)))
        self.wait_for_lines(found, 6)
        logs = "/containerLogs/default/log/one"
        self.assertEqual(sorted(self.get(logs).splitlines()), ["line 1", "line 2", "line 3", "line 4", "line 5", "wrong"])
        self.assertEqual(self.get(logs + "?stream=Stdout&tailLines=6"), "".join(f"line {i}\n" for i in range(1, 6)))
        self.assertEqual(self.get(logs + "?stream=Stdout&limitBytes=10"), "line 1\nlin")
        self.assertEqual(self.get(logs + "?tailLines=0"), "")
        self.assertEqual(len(self.get(logs + "?tailLines=2").splitlines()), 2)
        stamped = self.get(logs + "?timestamps=true&stream=Stdout").splitlines()
        self.assertRegex(stamped[0], r"^20[0-9T:.-]+(Z|\+00:00) line 1$")
        self.assertEqual(self.get(logs + "?stream=Stdout&sinceTime=" + stamped[3].split(" ")[0].replace("+", "%2B")), "line 4\nline 5\n")
        self.assertEqual(self.get(logs + "?sinceTime=2099-01-01T00:00:00Z"), "")
        self.assertEqual(len(self.get(logs + "?sinceSeconds=3600").splitlines()), 6)
        for path, status, text in (("/containerLogs/default/none/one", 404, 'pod "none" does not exist'),
                                   ("/containerLogs/default/log/two", 404, 'container "two" not found in pod "log"'),
                                   (logs + "?previous=true", 400, 'previous terminated container "one" in pod "log" not found'),
                                   (logs + "?tailLines=-1", 400, "tailLines=-1"), (logs + "?sinceTime=soon", 400, "sinceTime=soon"),
                                   (logs + "?sinceSeconds=5&sinceTime=2026-01-01T00:00:00Z", 400, "at most one")):
            answered = self.ask(path)
            self.assertEqual(answered[0], status, path)
            self.assertIn(text, answered[1])

    def test_logs_of_the_previous_container(self):
        self.node.plugins["node-agent"]["config"]["restartBackoff"] = {"initialSeconds": 0.1}
        self.node.apply(self.node.plugins)
        self.wait_for_api()
        self.node.drop(pod("again", shell("one", "echo run of $$ at $(cat /proc/uptime); /bin/busybox sleep 2")))
        wait_for("it has run twice", lambda: self.node.pods().get("again") and self.node.pods()["again"].restarts >= 1, 30)
        present = wait_for("it runs again", lambda: self.get("/containerLogs/default/again/one"))
        before = self.get("/containerLogs/default/again/one?previous=true")
        self.assertIn("run of", before)
        self.assertNotEqual(before, present)

    def follow(self, seconds, since=None):
        """The numbers that a counting pod writes meanwhile, and the time of the last one."""
        path = "/containerLogs/default/ticks/one?follow=true&timestamps=true" + (f"&sinceTime={since.replace('+', '%2B')}" if since else "")
        told = run("curl", "-sS", "-N", "--max-time", str(seconds), *self.as_admin(), API + path).stdout
        lines = [line.split(" ", 1) for line in told[:told.rfind("\n")].splitlines()]
        self.assertTrue(lines)
        return [int(text.split(" ")[1]) for _, text in lines], lines[-1][0]

    def test_logs_are_followed_over_a_rotation(self):
        self.node.plugins["node-agent"]["config"]["containerLogs"] = {"maxSize": "4k", "everySeconds": 0.2, "maxFiles": 20}
        self.node.apply(self.node.plugins)
        self.wait_for_api()
        found, _ = self.run_pod(pod("ticks", counting(pause="0.02")))
        heard, _ = self.follow(10)
        self.assertGreaterEqual(len(os.listdir(self.node.log_folder(found, "one"))), 2, "nothing was rotated meanwhile")
        self.assertEqual(heard, list(range(heard[0], heard[0] + len(heard))))
        self.assertGreater(len(heard), 2 * self.longest_log(found), "whoever stays with the first file hears no more than that")
        self.assertEqual(heard[0], 1, "what was written before a rotation counts too")
        logs = "/containerLogs/default/ticks/one"
        told = self.get(logs + "?tailLines=" + str(len(heard))).splitlines()
        self.assertIn(len(told) - len(heard), range(100), "a tail is longer than the current file, and what is written meanwhile comes too")
        stamped = self.get(logs + "?timestamps=true").splitlines()
        self.assertEqual([int(line.rsplit(" ", 1)[1]) for line in stamped], list(range(1, len(stamped) + 1)))
        since = self.get(logs + "?sinceTime=" + stamped[5].split(" ")[0].replace("+", "%2B")).splitlines()
        self.assertEqual(since[:2], ["line 6", "line 7"], "sinceTime goes back over rotations")

    def longest_log(self, found):
        """In lines, the longest of a container's log files."""
        folder = self.node.log_folder(found, "one")
        lengths = []
        for name in os.listdir(folder):
            try:
                with open(os.path.join(folder, name), "rb") as file:
                    lengths.append(len(file.readlines()))
            except FileNotFoundError:
                pass  # rotated away meanwhile
        return max(lengths)

    def test_logs_are_followed_over_a_restart(self):
        self.run_pod(pod("ticks", counting(pause="0.02")))
        before, since = self.follow(3)
        self.node.stop()
        self.node.start()
        self.wait_for_api()
        after, _ = self.follow(3, since)
        heard = before + after
        self.assertEqual(sorted(set(range(1, heard[-1] + 1)) - set(heard)), [])
        self.assertLess(len(heard) - len(set(heard)), 3, "sinceTime tells the last line again, and no more")

    def test_a_log_ends_with_its_container(self):
        self.run_pod(pod("short", shell("one", "echo begun; /bin/busybox sleep 2; echo done"), restartPolicy="Never"))
        begun = time.monotonic()
        self.assertEqual(self.get("/containerLogs/default/short/one?follow=true"), "begun\ndone\n")
        self.assertLess(time.monotonic() - begun, 20)

    def test_metrics_under_the_names_that_dashboards_know(self):
        busy = shell("one", "while true; do :; done")
        self.run_pod(pod("busy", busy))
        first = prometheus_text.check(self.get("/metrics/cadvisor"))
        labels = {"namespace": "default", "pod": "busy", "container": "one"}
        used = prometheus_text.value(first, "container_cpu_usage_seconds_total", **labels)

        def grown():
            now = prometheus_text.check(self.get("/metrics/cadvisor"))
            return now if prometheus_text.value(now, "container_cpu_usage_seconds_total", **labels) > used + 0.2 else None
        samples = wait_for("its CPU time grows", grown, 30, 0.2)
        has = next(has for has, _ in samples["container_cpu_usage_seconds_total"] if has["container"] == "one")
        self.assertEqual(has["image"], pods.IMAGE)
        self.assertTrue(has["id"].endswith(has["name"]) and len(has["name"]) >= 32, has)
        for name in ("container_memory_working_set_bytes", "container_memory_usage_bytes", "container_memory_rss"):
            self.assertGreater(prometheus_text.value(samples, name, **labels), 1000, name)
        self.assertIn("container_fs_usage_bytes", samples)
        for direction in ("receive", "transmit"):
            for what in ("bytes", "packets", "errors"):
                name = f"container_network_{direction}_{what}_total"
                self.assertGreaterEqual(prometheus_text.value(samples, name, pod="busy", interface="eth0"), 0, name)
        resource = prometheus_text.check(self.get("/metrics/resource"))
        self.assertGreater(prometheus_text.value(resource, "container_cpu_usage_seconds_total", **labels), used)
        for name in ("node_cpu_usage_seconds_total", "node_memory_working_set_bytes", "pod_cpu_usage_seconds_total", "pod_memory_working_set_bytes"):
            self.assertGreater(resource[name][0][1], 0, name)
        self.assertLess(abs(prometheus_text.value(resource, "container_start_time_seconds", **labels) - time.time()), 120)
        self.assertEqual(prometheus_text.value(resource, "resource_scrape_error"), 0)
        self.assertEqual(prometheus_text.value(resource, "scrape_error"), 0)
        own = prometheus_text.check(self.get("/metrics"))
        self.assertEqual(prometheus_text.value(own, "kubelet_running_pods"), 1)
        self.assertEqual(prometheus_text.value(own, "kubelet_running_containers", container_state="running"), 1)
        self.assertEqual(prometheus_text.value(own, "kubelet_pod_start_duration_seconds_count"), 1)
        self.assertEqual(prometheus_text.value(own, "kubelet_started_containers_total"), 1)
        self.assertIn("kubelet_node_name", own)
        self.assertEqual(prometheus_text.value(own, "pintle_plugin_state", plugin="node-agent", state="running"), 1)

    def test_metrics_of_probes(self):
        ready = {"exec": {"command": ["/bin/true"]}, "periodSeconds": 1}
        failing = {"exec": {"command": ["/bin/false"]}, "periodSeconds": 1, "failureThreshold": 1000}
        self.run_pod(pod("asked", shell("one", "/bin/busybox sleep 1000", readinessProbe=ready, livenessProbe=failing)))

        def counted():
            samples = prometheus_text.check(self.get("/metrics/probes")) if self.get("/metrics/probes") else {}
            found = {(has["probe_type"], has["result"]): number for has, number in samples.get("prober_probe_total", []) if has["pod"] == "asked"}
            return found if found.get(("Readiness", "successful"), 0) >= 2 and found.get(("Liveness", "failed"), 0) >= 2 else None
        self.assertEqual(set(wait_for("both are counted", counted, 30, 0.1)), {("Readiness", "successful"), ("Liveness", "failed")})
        self.node.take("asked")
        wait_for("it is forgotten", lambda: "asked" not in self.get("/metrics/probes"), 30)

    def test_summary(self):
        writes = shell("one", "/bin/busybox dd if=/dev/zero of=/data/file bs=1024 count=2048 && echo ready; while true; do :; done",
                       volumeMounts=[{"name": "data", "mountPath": "/data"}])
        found, _ = self.run_pod(pod("big", writes, volumes=[{"name": "data", "emptyDir": {}}]))
        wait_for("it has written", lambda: "ready" in self.log_lines(found))
        summary = json.loads(self.get("/stats/summary"))
        node = summary["node"]
        self.assertGreater(node["memory"]["availableBytes"] + node["memory"]["workingSetBytes"], 1 << 28)
        self.assertGreater(node["cpu"]["usageCoreNanoSeconds"], 0)
        self.assertGreater(node["fs"]["capacityBytes"], node["fs"]["availableBytes"])
        self.assertGreater(node["runtime"]["imageFs"]["usedBytes"], 0)
        self.assertGreater(node["rlimit"]["maxpid"], node["rlimit"]["curproc"])
        self.assertEqual([one["podRef"] for one in summary["pods"]], [{"name": "big", "namespace": "default", "uid": found.uid}])
        one = summary["pods"][0]
        volumes = {volume["name"]: volume for volume in one["volume"]}
        self.assertIn("data", volumes)
        self.assertGreaterEqual(volumes["data"]["usedBytes"], 2 << 20)
        self.assertEqual(one["network"]["name"], "eth0")
        container = one["containers"][0]
        self.assertGreater(container["memory"]["workingSetBytes"], 0)
        self.assertGreater(container["logs"]["usedBytes"], 0)
        self.assertIn("usedBytes", container["rootfs"])
        again = json.loads(self.get("/stats/summary"))["pods"][0]
        self.assertEqual(again["volume"][0]["time"], one["volume"][0]["time"], "volumes are not walked again within a minute")
        walks = prometheus_text.value(prometheus_text.check(self.get("/metrics")), "node_agent_storage_walks_total", plugin="node-agent")
        self.assertEqual(walks, 1, "one walk serves all who ask")
        short = json.loads(self.get("/stats/summary?only_cpu_and_memory=true"))
        self.assertNotIn("fs", short["node"])
        self.assertEqual(set(short["pods"][0]), {"podRef", "startTime", "containers", "cpu", "memory"})
        used = one["cpu"]["usageCoreNanoSeconds"]
        wait_for("its CPU time grows", lambda: json.loads(self.get("/stats/summary?only_cpu_and_memory=true"))["pods"][0]["cpu"]["usageCoreNanoSeconds"] > used, 30)


class Top(NodeApiCase):
    def top(self, *arguments):
        return self.node.pintle("top", "--once", "-d", "0.5", *arguments)

    def test_top_shows_who_uses_what(self):
        hog = shell("hog", "/bin/busybox dd if=/dev/zero of=/memory/file bs=1024 count=40000; echo ready; /bin/busybox sleep 1000",
                    volumeMounts=[{"name": "memory", "mountPath": "/memory"}])
        found, _ = self.run_pod(pod("idle", hog, volumes=[{"name": "memory", "emptyDir": {"medium": "Memory"}}]))
        wait_for("it has its memory", lambda: "ready" in self.log_lines(found, "hog"), 30)
        self.run_pod(pod("busy", shell("spin", "while true; do :; done"), metadata={"namespace": "work"}))
        told = json.loads(self.top("-o", "json"))
        self.assertEqual([one["pod"] for one in told["pods"]], ["busy", "idle"])
        self.assertGreater(told["pods"][0]["cpuCores"], 0.05)
        self.assertLess(told["pods"][1]["cpuCores"], told["pods"][0]["cpuCores"] / 2)
        self.assertGreaterEqual(told["node"]["cpuCores"], told["pods"][0]["cpuCores"] / 2)
        self.assertGreater(told["node"]["memoryBytesAll"], told["node"]["memoryBytes"])
        by_memory = json.loads(self.top("-o", "json", "--sort-by", "memory", "--containers"))["containers"]
        self.assertEqual([one["container"] for one in by_memory], ["hog", "spin"])
        self.assertGreater(by_memory[0]["memoryBytes"], 30 << 20)
        self.assertEqual([one["pod"] for one in json.loads(self.top("-o", "json", "-n", "work"))["pods"]], ["busy"])
        table = self.top().splitlines()
        self.assertRegex(table[0], r"CPU \d+m of \d+ cores .* memory .* disk .* 2 pods")
        self.assertRegex(table[2], r"^NAMESPACE +POD +CPU +MEMORY +DISK")
        self.assertRegex(table[3], r"^work +busy +\d+m ")
        self.assertEqual(self.node.pintle("top", "--sort-by", "name", check=False).returncode, 2)

    def test_top_redraws_on_a_terminal(self):
        self.run_pod(pod("web", counting()))
        master, slave = os.openpty()
        process = subprocess.Popen([self.node.program("pintle"), "--socket", self.node.admin.path, "top", "-d", "0.2"], stdout=slave, stderr=slave,
                                   env={**os.environ, "TERM": "xterm"})
        os.close(slave)
        heard = b""
        try:
            while heard.count(b"\x1b[H") < 3:
                heard += os.read(master, 65536)
        finally:
            process.terminate()
            process.wait()
            os.close(master)
        self.assertGreaterEqual(heard.count(b"NAMESPACE"), 2)
        self.assertIn(b"web", heard)


class Posted(NodeApiCase):
    def tearDown(self):
        self.remove_posted()
        super().tearDown()

    def test_a_posted_pod_comes_back_after_kill_9(self):
        status, body = self.post(pod("handed", counting()))
        self.node.kill()
        self.assertEqual(status, 201, body)
        uid = json.loads(body)["metadata"]["uid"]
        self.node.start()
        self.wait_for_api()
        found = self.wait_for_running("handed")
        self.assertEqual(found.uid, uid)
        listed = json.loads(self.get("/pods"))["items"][0]
        self.assertEqual(listed["metadata"]["annotations"]["kubernetes.io/config.source"], "http")
        before = self.containers_of(found)[0].identity()
        self.assertEqual(self.post(pod("handed", counting()))[0], 200)
        self.assertEqual(self.containers_of(self.wait_for_running("handed"))[0].identity(), before)
        status, body = self.ask("/pods/default/handed?gracePeriodSeconds=0", "-X", "DELETE")
        self.assertEqual((status, json.loads(body)["status"]), (200, "Success"))
        self.node.kill()
        self.node.start()
        self.wait_for_api()
        wait_for("it does not come back", lambda: not self.node.pods(), 30)
        self.assertEqual(self.ask("/pods/default/handed", "-X", "DELETE")[0], 404)

    def test_a_pod_may_be_taken_back_more_than_once(self):
        self.assertEqual(self.post(pod("handed", shell("one", "trap '' TERM; /bin/busybox sleep 1000; /bin/busybox sleep 1000")))[0], 201)
        self.wait_for_running("handed")
        self.assertEqual(self.ask("/pods/default/handed?gracePeriodSeconds=600", "-X", "DELETE")[0], 200)
        status, body = self.ask("/pods/default/handed?gracePeriodSeconds=0", "-X", "DELETE")
        self.assertEqual((status, json.loads(body)["message"]), (200, "the pod default/handed is ending"))
        wait_for("it is gone", lambda: not self.node.pods(), 30)
        status, body = self.ask("/pods/default/handed", "-X", "DELETE")
        told = json.loads(body)
        self.assertEqual((status, told["status"], told["reason"]), (404, "Failure", "NotFound"))
        self.assertIn("no pod default/handed: it was never handed in, or has been taken back and has ended", told["message"])

    def test_a_posted_pod_outlives_its_damaged_record(self):
        self.assertEqual(self.post(pod("handed", counting()))[0], 201)
        before = self.containers_of(self.wait_for_running("handed"))[0].identity()
        self.node.kill()
        os.truncate(os.path.join(self.node.state, "shared/node-agent/posted/default_handed.json"), 10)
        self.node.start()
        self.wait_for_api()
        self.assertEqual(self.containers_of(self.wait_for_running("handed"))[0].identity(), before)

    def test_lists_yaml_and_changes(self):
        manifest = """
apiVersion: v1
kind: PodList
items:
- metadata: {name: a}
  spec: {containers: [{name: one, image: IMAGE, imagePullPolicy: Never, command: [/bin/workload, sleep]}], terminationGracePeriodSeconds: 0}
- metadata: {name: b, namespace: other}
  spec: {containers: [{name: one, image: IMAGE, imagePullPolicy: Never, command: [/bin/workload, sleep]}], terminationGracePeriodSeconds: 0}
""".replace("IMAGE", pods.IMAGE)
        status, body = self.post(manifest, "application/yaml")
        self.assertEqual((status, len(json.loads(body)["items"])), (201, 2), body)
        first = self.wait_for_running("a")
        self.wait_for_running("b")
        status, body = self.post(pod("a", shell("one", "echo changed; /bin/busybox sleep 1000")))
        self.assertEqual(status, 200, body)
        wait_for("a is another pod", lambda: self.node.pods().get("a") and self.node.pods()["a"].uid != first.uid and self.node.pods()["a"].is_running(), 30)
        self.assertIn("ending", self.ask("/pods/other/b", "-X", "DELETE")[1])
        wait_for("b is gone", lambda: "b" not in self.node.pods(), 30)
        self.node.pintle("pod", "rm", "a")
        wait_for("a is gone", lambda: not self.node.pods(), 30)

    def test_bad_manifests_get_one_line_and_nothing_is_kept(self):
        good = pod("good", counting())
        wrong = pod("wrong", counting())
        wrong["spec"]["containrs"] = wrong["spec"].pop("containers")
        unsound = pod("Un Sound", counting())
        for manifest, kind, status, reason, text in (
                (wrong, "application/json", 422, "Invalid", "did you mean containers"),
                (unsound, "application/json", 422, "Invalid", "metadata.name"),
                ({"kind": "PodList", "apiVersion": "v1", "items": [good, wrong]}, "application/json", 422, "Invalid", "did you mean containers"),
                ("{", "application/json", 400, "BadRequest", "not JSON"), ("a: [", "application/yaml", 422, "Invalid", "body:2:1: did not find"),
                ("", "application/yaml", 400, "BadRequest", "empty"), (good, "application/x-www-form-urlencoded", 415, "UnsupportedMediaType", "application/yaml"),
                ({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "s"}}, "application/json", 422, "Invalid", "only v1 Pod"),
                ("#" * 5_000_000, "application/yaml", 413, "RequestEntityTooLarge", "5000000 bytes")):
            answered, body = self.post(manifest, kind)
            told = json.loads(body)
            self.assertEqual((answered, told["kind"], told["status"], told["reason"], told["code"]), (status, "Status", "Failure", reason, status), body)
            self.assertIn(text, told["message"])
            self.assertNotIn("\n", told["message"])
        self.assertEqual(self.ask("/pods/default/good?gracePeriodSeconds=x", "-X", "DELETE")[0], 400)
        self.assertEqual(self.node.pods(), {})
        self.assertFalse(os.path.exists(os.path.join(self.node.state, "shared/node-agent/posted")))

    def test_a_pod_of_another_source_is_left_alone(self):
        found, container = self.run_pod(pod("taken", counting()))
        status, body = self.post(pod("taken", shell("one", "echo other")))
        self.assertEqual((status, json.loads(body)["reason"]), (409, "AlreadyExists"), body)
        self.assertIn(f"{self.node.manifests}/taken.json", body)
        status, body = self.ask("/pods/default/taken", "-X", "DELETE")
        self.assertEqual((status, json.loads(body)["reason"]), (409, "Conflict"), body)
        self.assertEqual(self.containers_of(self.wait_for_running("taken"))[0].identity(), container.identity())
        self.node.take("taken")

    def test_a_node_that_takes_no_manifests(self):
        self.api["acceptManifests"] = False
        self.node.apply(self.node.plugins)
        wait_for("it refuses", lambda: self.post(pod("handed", counting()))[0] == 403)
        self.assertEqual(self.ask("/pods/default/handed", "-X", "DELETE")[0], 403)
        self.assertEqual(self.node.pods(), {})


if __name__ == "__main__":
    contained.main()
