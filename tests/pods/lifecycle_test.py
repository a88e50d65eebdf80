"""Hooks, termination messages and deadlines of real containers."""

import json
import os
import select
import socket
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import contained
import pods
from node import NodeTest, wait_for
from pod_case import shell


class Asked(BaseHTTPRequestHandler):
    """Writes down what it is asked, and refuses what nobody answers well."""
    paths = []

    def do_GET(self):
        Asked.paths.append(self.path)
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def hook(script):
    return {"exec": {"command": ["/bin/sh", "-c", script]}}


def with_folder(pod):
    """What the containers see at /shared lies in a folder of the test, which outlives the pod."""
    folder = os.path.join(contained.root(), "shared-" + pod["metadata"]["name"])
    os.makedirs(folder, exist_ok=True)
    pod["spec"]["volumes"] = [{"name": "shared", "hostPath": {"path": folder}}]
    for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
        container["volumeMounts"] = [{"name": "shared", "mountPath": "/shared"}]
    return pod, os.path.join(folder, "order")


def words(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return file.read().split()


class Lifecycle(NodeTest):
    def pod(self, name):
        return self.node.pods().get(name)

    def wait_running(self, name):
        return wait_for(f"{name} runs", lambda: (p := self.pod(name)) and p.is_running() and p, 20)

    def status(self, name):
        return json.loads(self.pod(name).json)["status"]

    def test_post_start_comes_before_the_next_container_and_before_ready(self):
        first = shell("first", "echo first >> /shared/order; exec sleep 1000", lifecycle={"postStart": hook("sleep 0.5; echo hook >> /shared/order")})
        pod, order = with_folder(pods.pod("hooked", first, shell("second", "echo second >> /shared/order; exec sleep 1000")))
        self.node.drop(pod)
        self.wait_running("hooked")
        wait_for("three lines", lambda: len(words(order)) == 3)
        self.assertEqual(words(order), ["first", "hook", "second"])

    def test_a_failing_post_start_ends_its_container(self):
        self.node.drop(pods.pod("unhooked", shell("one", "exec sleep 1000", lifecycle={"postStart": hook("echo no; exit 4")}), grace=1))
        wait_for("it is told", lambda: "PostStartHook failed" in self.node.log_tail() and self.pod("unhooked").restarts >= 1, 20)

    def test_pre_stop_comes_before_the_signal_and_takes_its_time_from_the_grace(self):
        script = "trap 'echo term >> /shared/order; exit 0' TERM; while :; do sleep 0.05; done"
        pod, order = with_folder(pods.pod("leaving", shell("one", script, lifecycle={"preStop": hook("echo hook >> /shared/order; sleep 0.3; echo hooked >> /shared/order")})))
        self.node.drop(pod)
        self.wait_running("leaving")
        self.node.take("leaving")
        wait_for("leaving has gone", lambda: self.pod("leaving") is None, 20)
        self.assertEqual(words(order), ["hook", "hooked", "term"])
        stubborn, order = with_folder(pods.pod("stubborn", shell("one", script, lifecycle={"preStop": hook("echo hook >> /shared/order; sleep 600")}), grace=2))
        self.node.drop(stubborn)
        self.wait_running("stubborn")
        begun = time.monotonic()
        self.node.take("stubborn")
        wait_for("stubborn has gone", lambda: self.pod("stubborn") is None, 20)
        took = time.monotonic() - begun
        self.assertGreater(took, 1.8)
        self.assertLess(took, 12)
        self.assertEqual(words(order), ["hook", "term"])

    def test_hooks_over_the_network(self):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        listener = socket.create_server(("127.0.0.1", 0))
        try:
            def ask(path):
                return {"httpGet": {"host": "127.0.0.1", "port": server.server_address[1], "path": path}}
            one = shell("one", "exec sleep 1000", lifecycle={"postStart": ask("/begins"), "preStop": ask("/ends")})
            two = shell("two", "exec sleep 1000", lifecycle={"preStop": {"tcpSocket": {"host": "127.0.0.1", "port": listener.getsockname()[1]}}})
            self.node.drop(pods.pod("asking", one, two, grace=5))
            self.wait_running("asking")
            # What is answered does not matter to a hook, only that something is.
            self.assertEqual(Asked.paths, ["/begins"])
            self.assertEqual(self.pod("asking").restarts, 0)
            self.node.take("asking")
            wait_for("asking has gone", lambda: self.pod("asking") is None, 30)
            self.assertEqual(Asked.paths, ["/begins", "/ends"])
            self.assertTrue(select.select([listener], [], [], 1)[0], "nobody connected")
            self.assertNotIn("PreStopHook failed", self.node.log_tail(200))
            self.node.drop(pods.pod("unheard", shell("one", "exec sleep 1000", lifecycle={"postStart": {"httpGet": {"host": "127.0.0.1", "port": 9}}}), grace=0))
            wait_for("nobody answers", lambda: "PostStartHook failed" in self.node.log_tail(), 20)
        finally:
            listener.close()
            server.shutdown()
            server.server_close()

    def test_sleep_hook(self):
        pod, order = with_folder(pods.pod("slow", shell("one", "trap 'echo term >> /shared/order; exit 0' TERM; while :; do sleep 0.05; done",
                                                       lifecycle={"preStop": {"sleep": {"seconds": 1}}})))
        self.node.drop(pod)
        self.wait_running("slow")
        begun = time.monotonic()
        self.node.take("slow")
        wait_for("slow has gone", lambda: self.pod("slow") is None, 20)
        self.assertGreater(time.monotonic() - begun, 1)
        self.assertEqual(words(order), ["term"])

    def test_termination_messages(self):
        says = shell("says", "echo -n the-reason > /dev/termination-log; exit 3")
        other = shell("other", "echo -n elsewhere > /tmp/message; exit 0", terminationMessagePath="/tmp/message")
        log = shell("log", "echo first; echo last words; exit 1", terminationMessagePolicy="FallbackToLogsOnError")
        quiet = shell("quiet", "echo nothing; exit 1")
        self.node.drop(pods.pod("said", says, other, log, quiet, restart="Never"))
        wait_for("said has failed", lambda: (p := self.pod("said")) and p.phase == "Failed", 20)
        ended = {one["name"]: one["state"]["terminated"] for one in self.status("said")["containerStatuses"]}
        self.assertEqual(ended["says"].get("message"), "the-reason")
        self.assertEqual(ended["says"]["reason"], "Error")
        self.assertEqual(ended["other"].get("message"), "elsewhere")
        self.assertEqual(ended["other"]["reason"], "Completed")
        self.assertEqual(ended["log"].get("message"), "first\nlast words\n")
        self.assertNotIn("message", ended["quiet"])

    def test_active_deadline(self):
        pod = pods.pod("brief", pods.container("one", "sleep"), grace=1)
        pod["spec"]["activeDeadlineSeconds"] = 2
        self.node.drop(pod)
        self.wait_running("brief")
        begun = time.monotonic()
        wait_for("brief has failed", lambda: self.pod("brief").phase == "Failed", 20)
        self.assertLess(time.monotonic() - begun, 10)
        self.assertEqual(self.status("brief")["reason"], "DeadlineExceeded")
        wait_for("its container has ended", lambda: not self.node.containers())
        self.node.kill()
        self.node.start()
        wait_for("brief stays failed", lambda: (p := self.pod("brief")) and p.phase == "Failed" and "DeadlineExceeded" in p.message, 20)
        self.assertEqual(self.node.containers(), {})

    def test_out_of_memory_is_told(self):
        hungry = shell("one", "x=0123456789abcdef; while :; do x=$x$x; done", resources={"limits": {"memory": "16Mi"}})
        self.node.drop(pods.pod("hungry", hungry, restart="Never"))
        wait_for("hungry has failed", lambda: (p := self.pod("hungry")) and p.phase == "Failed", 30)
        ended = self.status("hungry")["containerStatuses"][0]["state"]["terminated"]
        self.assertEqual((ended["reason"], ended["exitCode"]), ("OOMKilled", 137))


if __name__ == "__main__":
    contained.main()
