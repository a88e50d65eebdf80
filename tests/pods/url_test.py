"""Manifests from a web server: what it answers runs, whatever becomes of the server."""

import json
import os
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import contained
import pods
from node import NodeTest, wait_for


class Fleet(BaseHTTPRequestHandler):
    """A server of manifests with ETags; `status` other than 200 is all that it says."""
    status, body, etag, asked, unmodified = 200, "", "one", 0, 0

    def do_GET(self):
        Fleet.asked += 1
        assert self.headers["X-Node"] == "this"
        same = Fleet.status == 200 and self.headers["If-None-Match"] == f'"{Fleet.etag}"'
        Fleet.unmodified += same
        self.send_response(304 if same else Fleet.status)
        content = b"" if same else Fleet.body.encode()
        self.send_header("ETag", f'"{Fleet.etag}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def answer(etag, *listed):
    Fleet.body = json.dumps({"apiVersion": "v1", "kind": "PodList", "items": list(listed)})
    Fleet.etag = etag


class ManifestUrl(NodeTest):
    def prepare(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Fleet)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/node"
        self.node.plugins["node-agent"]["config"]["manifestURL"] = {"url": self.url, "periodSeconds": 0.2, "headers": {"X-Node": "this"}}
        answer("one", pods.pod("a", pods.container("one", "sleep")), pods.pod("b", pods.container("one", "sleep")))

    def tearDown(self):
        self.serve_nothing()
        super().tearDown()
        self.server.shutdown()

    def serve_nothing(self):
        Fleet.status = 200
        answer("none")
        wait_for("no pod is left", lambda: not self.node.pods(), 20)

    def identities(self):
        return sorted(container.identity() for container in self.node.containers().values())

    def test_pods_of_a_server_stay_while_it_fails(self):
        self.node.wait_for_pods(2)
        before = self.identities()
        unmodified = Fleet.unmodified
        wait_for("it is asked with the ETag", lambda: Fleet.unmodified > unmodified + 2)
        Fleet.status, Fleet.body = 500, "broken"
        asked = Fleet.asked
        wait_for("it is asked again", lambda: Fleet.asked > asked + 2)
        self.assertIn("HTTP status 500", self.node.log_tail())
        self.node.kill()
        self.node.start()
        wait_for("it is asked by the next daemon", lambda: Fleet.asked > asked + 5)
        self.assertEqual(self.identities(), before)
        lost = next(one for one in self.node.containers().values() if one.sandbox == self.node.pods()["a"].sandbox)
        os.kill(lost.pid, 9)
        wait_for("a pod of a server that fails is still looked after", lambda: self.node.pods()["a"].restarts == 1 and self.node.pods()["a"].is_running(), 20)
        before = self.identities()
        Fleet.status, Fleet.body, Fleet.etag = 200, '{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}, "spec": {"containrs": []}}', "broken"
        wait_for("the mistake is told", lambda: "did you mean containers" in self.node.log_tail())
        self.assertEqual(self.identities(), before)
        answer("two", pods.pod("b", pods.container("one", "sleep")))
        wait_for("a has ended", lambda: set(self.node.pods()) == {"b"}, 20)
        self.assertIn(self.identities()[0], before)
        self.assertIn("take it out of what that server answers", self.node.pintle("pod", "rm", "b", check=False).stderr)


if __name__ == "__main__":
    contained.main()
