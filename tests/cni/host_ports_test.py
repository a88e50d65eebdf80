"""A pod's host ports lead from the node's address into the pod, whatever happens to the node's daemon and its rules."""

import socket
import subprocess
import unittest

import contained
import pods
from node import NodeTest, wait_for

NODE = "10.213.0.1"


def echo(port, address=NODE):
    """What comes back over TCP, or why nothing does."""
    try:
        with socket.create_connection((address, port), timeout=2) as connection:
            connection.sendall(b"hello\n")
            return connection.recv(100)
    except OSError as error:
        return error.strerror or str(error)


def serving(name, port, host_port, **port_fields):
    container = {**pods.container("one", "serve", port), "ports": [{"containerPort": port, "hostPort": host_port, **port_fields}]}
    return pods.pod(name, container)


class HostPorts(NodeTest):
    def test_lead_into_the_pod_and_outlive_the_daemon(self):
        self.node.drop(serving("web", 8080, 18080))
        self.node.wait_for_pods(1)
        wait_for("the pod serves", lambda: echo(18080) == b"hello\n", 10)
        self.node.kill()
        self.assertEqual(echo(18080), b"hello\n", "without the daemon")
        self.node.start()
        self.assertEqual(echo(18080), b"hello\n", "after its restart")
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        wait_for("the flushed rules come back", lambda: echo(18080) == b"hello\n", 10)
        self.node.take("web")
        self.node.wait_for_none()
        self.assertEqual(echo(18080), "Connection refused")

    def test_answer_on_loopback_that_of_the_node_alone_and_outlive_the_daemon(self):
        self.node.drop(serving("local", 8080, 18082, hostIP="127.0.0.1"))
        self.node.drop(serving("web", 8080, 18083))
        self.node.wait_for_pods(2)
        for port in (18082, 18083):
            wait_for("the pod serves", lambda port=port: echo(port, "127.0.0.1") == b"hello\n", 10)
        self.assertEqual(echo(18082), "Connection refused", "not on the node's other addresses")
        self.node.kill()
        self.assertEqual(echo(18083, "127.0.0.1"), b"hello\n", "without the daemon")
        self.node.start()
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        wait_for("the flushed rules come back", lambda: echo(18083, "127.0.0.1") == b"hello\n", 10)
        for name in ("local", "web"):
            self.node.take(name)
        self.node.wait_for_none()
        self.assertEqual(echo(18083, "127.0.0.1"), "Connection refused")
        with open("/proc/sys/net/ipv4/conf/pintle-test/route_localnet", encoding="ascii") as file:
            self.assertEqual(file.read().strip(), "0", "loopback is closed behind the last of them")

    def test_of_another_pod_are_refused_and_follow_when_free(self):
        self.node.drop(serving("first", 8080, 18081))
        self.node.wait_for_pods(1)
        self.node.drop(serving("second", 9090, 18081, hostIP=NODE))
        wait_for("the pod says why it does not run", lambda: "second" in self.node.pods() and
                 "host port 10.213.0.1:18081/tcp: sandbox" in self.node.pods()["second"].message, 20)
        self.assertTrue(self.node.pods()["first"].is_running())
        self.node.take("first")
        wait_for("the second pod has the port", lambda: self.node.pods()["second"].is_running() and echo(18081) == b"hello\n", 60)


if __name__ == "__main__":
    contained.main()
