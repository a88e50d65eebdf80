"""Startup, liveness and readiness probes of real containers: command, HTTP(S), TCP and gRPC."""

import json
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import contained
import pods
from node import NodeTest, wait_for
from pod_case import shell


def often(failures=2, **handler):
    return {"periodSeconds": 1, "failureThreshold": failures, **handler}


class Web(BaseHTTPRequestHandler):
    """Answers by its class's settings, and keeps what it was asked."""
    status, seen, target = 200, [], None

    def do_GET(self):
        Web.seen.append((self.path, dict(self.headers)))
        place = self.path.startswith("/away") and Web.target
        self.send_response(302 if place else Web.status)
        if place:
            self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def serve(handler=Web, secure=False):
    """A web server of the test on loopback; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if secure:
        folder = contained.root()
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=nobody", "-keyout",
                        f"{folder}/key.pem", "-out", f"{folder}/cert.pem"], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


class Health:
    """The least of an HTTP/2 server that a gRPC health check needs: every request gets `status`."""

    def __init__(self):
        self.status = 1
        self.listener = socket.create_server(("0.0.0.0", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        def frame(kind, flags, stream, payload):
            return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

        def literal(name, value):
            return bytes([0, len(name)]) + name + bytes([len(value)]) + value

        file = connection.makefile("rb")
        try:
            file.read(24)
            connection.sendall(frame(4, 0, 0, b""))
            while True:
                head = file.read(9)
                if len(head) < 9:
                    return
                length, kind, flags, stream = int.from_bytes(head[:3], "big"), head[3], head[4], int.from_bytes(head[5:], "big")
                file.read(length)
                if kind == 4 and not flags & 1:
                    connection.sendall(frame(4, 1, 0, b""))
                if kind == 0 and flags & 1:
                    answer = b"\x00\x00\x00\x00\x02\x08" + bytes([self.status])
                    connection.sendall(frame(1, 4, stream, b"\x88" + literal(b"content-type", b"application/grpc")) +
                                       frame(0, 0, stream, answer) + frame(1, 5, stream, literal(b"grpc-status", b"0")))
        except OSError:
            pass


class Probes(NodeTest):
    def pod(self, name):
        return self.node.pods().get(name)

    def wait_running(self, name, limit=20):
        return wait_for(f"{name} runs", lambda: (p := self.pod(name)) and p.is_running() and p, limit)

    def test_readiness_by_command(self):
        script = "echo > /tmp/ready; exec sleep 1000"
        ready = often(1, exec={"command": ["/bin/cat", "/tmp/ready"]})
        self.node.drop(pods.pod("ready", shell("one", "sleep 1.5; " + script, readinessProbe=ready)))
        pod = wait_for("ready runs, unready", lambda: (p := self.pod("ready")) and p.phase == "Running" and p.ready == 0 and p, 20)
        self.assertEqual(pod.restarts, 0)
        begun = time.monotonic()
        self.wait_running("ready")
        self.assertGreater(time.monotonic() - begun, 0.5, "it was ready before its file was there")
        self.assertIn("Readiness probe failed", self.node.log_tail())

    def test_liveness_by_http_restarts_the_container(self):
        port = serve()
        Web.status, Web.seen, Web.target = 200, [], None
        live = often(2, httpGet={"host": "127.0.0.1", "port": port, "path": "/live?x=1", "httpHeaders": [{"name": "X-Probe", "value": "yes"}]})
        self.node.drop(pods.pod("live", shell("one", "exec sleep 1000", livenessProbe=live), grace=1))
        self.wait_running("live")
        wait_for("it is asked", lambda: len(Web.seen) >= 2)
        path, headers = Web.seen[0]
        self.assertEqual(path, "/live?x=1")
        self.assertEqual(headers.get("X-Probe"), "yes")
        self.assertTrue(headers["User-Agent"].startswith("kube-probe/"))
        self.assertEqual(self.pod("live").restarts, 0)
        Web.status = 503
        wait_for("it is restarted", lambda: self.pod("live").restarts >= 1, 20)
        Web.status = 200
        self.assertIn("HTTP probe failed with statuscode: 503", self.node.log_tail())
        self.assertIn("failed liveness probe, will be restarted", self.node.log_tail())

    def test_https_and_redirects(self):
        Web.status, Web.seen = 200, []
        plain, secure = serve(), serve(secure=True)
        Web.target = f"http://127.0.0.1:{plain}/there"
        containers = [shell("tls", "exec sleep 1000", readinessProbe=often(httpGet={"host": "127.0.0.1", "port": secure, "scheme": "HTTPS", "path": "/tls"})),
                      shell("same", "exec sleep 1000", readinessProbe=often(httpGet={"host": "127.0.0.1", "port": plain, "path": "/away"}))]
        self.node.drop(pods.pod("hops", *containers))
        self.wait_running("hops")
        paths = [path for path, _ in Web.seen]
        self.assertIn("/tls", paths)
        self.assertIn("/there", paths)
        Web.target, Web.seen = f"http://localhost:{plain}/elsewhere", []
        wait_for("a redirect to another host is told", lambda: "Probe terminated redirects" in self.node.log_tail(), 10)
        self.assertNotIn("/elsewhere", [path for path, _ in Web.seen])
        self.assertTrue(self.pod("hops").is_running())

    def test_tcp_and_startup(self):
        serve_late = shell("one", "sleep 2; exec /bin/workload serve 8080", ports=[{"name": "line", "containerPort": 8080}],
                           startupProbe=often(20, tcpSocket={"port": "line"}), livenessProbe=often(1, tcpSocket={"port": 8080}))
        self.node.drop(pods.pod("late", serve_late, grace=0))
        wait_for("late runs, not started", lambda: (p := self.pod("late")) and p.phase == "Running" and p.ready == 0 and p, 20)
        pod = self.wait_running("late")
        self.assertEqual(pod.restarts, 0, "liveness waits for the startup probe")
        self.assertNotIn("Liveness probe failed", self.node.log_tail(200))
        never = shell("one", "exec sleep 1000", startupProbe={**often(2, tcpSocket={"port": 9}), "terminationGracePeriodSeconds": 1})
        self.node.drop(pods.pod("never", never, grace=60, restart="Never"))
        begun = time.monotonic()
        wait_for("never has failed", lambda: (p := self.pod("never")) and p.phase == "Failed", 30)
        self.assertLess(time.monotonic() - begun, 25, "by the probe's grace period")
        self.assertIn("failed startup probe", self.node.log_tail())

    def test_grpc(self):
        health = Health()
        pod = pods.pod("grpc", shell("one", "exec sleep 1000", readinessProbe=often(1, grpc={"port": health.port, "service": "db"})))
        pod["spec"]["hostNetwork"] = True
        warm = pods.pod("warm", pods.container("one", "sleep"))  # the node's address is the bridge's, which comes with the first pod
        self.node.drop(warm)
        self.wait_running("warm")
        self.node.drop(pod)
        self.wait_running("grpc")
        health.status = 2
        wait_for("it is unready", lambda: self.pod("grpc").ready == 0, 10)
        self.assertIn("NOT_SERVING", self.node.log_tail())
        health.status = 1
        self.wait_running("grpc")

    def test_probes_go_on_with_the_next_daemon(self):
        script = "echo > /tmp/ok; exec sleep 1000"
        live = often(2, exec={"command": ["/bin/cat", "/tmp/ok"]})
        self.node.drop(pods.pod("kept", shell("one", script, livenessProbe=live, readinessProbe=live), grace=1))
        self.wait_running("kept")
        self.node.kill()
        self.node.start()
        pod = self.wait_running("kept")
        self.assertEqual(pod.restarts, 0)
        container = list(self.node.containers().values())[0]
        os.unlink(f"/proc/{container.pid}/root/tmp/ok")
        wait_for("it is restarted", lambda: self.pod("kept").restarts == 1, 20)


if __name__ == "__main__":
    contained.main()
