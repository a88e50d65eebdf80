"""Init containers and sidecars: the order of real processes."""

import os
import time
import unittest

import contained
import pods
from node import NodeTest, wait_for
from pod_case import shell


def with_init(pod, *init):
    pod["spec"]["initContainers"] = list(init)
    for container in pod["spec"]["containers"] + pod["spec"]["initContainers"]:
        container["volumeMounts"] = [{"name": "shared", "mountPath": "/shared"}]
    pod["spec"]["volumes"] = [{"name": "shared", "emptyDir": {}}]
    return pod


class InitContainers(NodeTest):
    def lines(self, name):
        """What all of a pod's containers have appended to /shared/order."""
        pod = self.node.pods().get(name)
        path = os.path.join(self.node.state, "shared", "node-agent", "pods", pod.uid if pod else "-", "volumes/shared/order")
        for folder, _, files in os.walk(self.node.state):
            if pod and folder.endswith(f"{pod.uid}/volumes/shared") and "order" in files:
                path = os.path.join(folder, "order")
        if not os.path.exists(path):
            return []
        with open(path, encoding="utf-8") as file:
            return file.read().split()

    def test_init_containers_run_in_order(self):
        order = "echo {0} >> /shared/order; sleep 0.2; echo {0}-done >> /shared/order"
        pod = with_init(pods.pod("ordered", shell("main", "echo main >> /shared/order; exec sleep 1000")),
                        shell("first", order.format("first")), shell("second", order.format("second")))
        self.node.drop(pod)
        seen = set()

        def runs():
            found = self.node.pods().get("ordered")
            if found:
                seen.add(found.message)
            return found and found.is_running()
        wait_for("ordered runs", runs, 20)
        self.assertEqual(self.lines("ordered"), ["first", "first-done", "second", "second-done", "main"])
        self.assertIn("Init:0/2", seen)

    def test_failing_init_container_holds_the_pod_back(self):
        # The first restart comes at once, the second one after a while: in that time the next container must not begin.
        script = "echo setup >> /shared/order; [ $(wc -l < /shared/order) -ge 3 ] || exit 3"
        self.node.drop(with_init(pods.pod("again", shell("main", "echo main >> /shared/order; exec sleep 1000")), shell("setup", script)))
        self.node.drop(with_init(pods.pod("never", pods.container("main", "sleep"), restart="Never"),
                                 shell("setup", "echo setup >> /shared/order; exit 3"), shell("later", "echo later >> /shared/order")))
        wait_for("never has failed", lambda: (p := self.node.pods().get("never")) and p.phase == "Failed", 20)
        wait_for("never is over", lambda: not self.node.pods()["never"].sandbox, 20)
        self.assertEqual(self.node.pods()["never"].message, "Init:Error")
        self.assertEqual(self.lines("never"), ["setup"])
        pod = wait_for("again runs", lambda: (p := self.node.pods().get("again")) and p.is_running() and p, 40)
        self.assertEqual(pod.restarts, 2)
        self.assertEqual(self.lines("again"), ["setup", "setup", "setup", "main"])

    def test_sidecars_outlast_the_others_and_do_not_count(self):
        sidecar = "echo {0} >> /shared/order; trap 'echo {0}-ends >> /shared/order; exit 0' TERM; while :; do sleep 0.05; done"
        main = "echo main >> /shared/order; trap 'sleep 0.3; echo main-ends >> /shared/order; exit 0' TERM; while [ ! -e /shared/stop ]; do sleep 0.05; done; echo main-ends >> /shared/order"
        sides = [shell("log", sidecar.format("log"), restartPolicy="Always"), shell("proxy", sidecar.format("proxy"), restartPolicy="Always")]
        job = with_init(pods.pod("job", shell("main", main), restart="Never"), *sides, shell("setup", "echo setup >> /shared/order"))
        self.node.drop(job)
        found = wait_for("job runs", lambda: (p := self.node.pods().get("job")) and p.is_running() and p, 20)
        self.assertEqual(found.containers, 3)
        self.assertEqual(self.lines("job"), ["log", "proxy", "setup", "main"])
        for folder, _, _ in os.walk(self.node.state):
            if folder.endswith(f"{found.uid}/volumes/shared"):
                with open(os.path.join(folder, "stop"), "w", encoding="utf-8"):
                    pass
        wait_for("job has succeeded", lambda: self.node.pods()["job"].phase == "Succeeded", 20)
        self.assertEqual(self.lines("job")[4:], ["main-ends", "proxy-ends", "log-ends"])

    def test_a_sidecar_is_restarted_and_the_pod_survives_the_daemon(self):
        self.node.drop(with_init(pods.pod("side", pods.container("main", "sleep")), {**pods.container("proxy", "sleep"), "restartPolicy": "Always"},
                                 shell("setup", "echo setup >> /shared/order")))
        wait_for("side runs", lambda: (p := self.node.pods().get("side")) and p.is_running(), 20)
        before = {container.id: container for container in self.node.containers().values() if container.pid}
        self.node.kill()
        self.node.start()
        wait_for("side runs still", lambda: self.node.pods()["side"].is_running(), 20)
        self.assertEqual(self.lines("side"), ["setup"], "it was initialized only once")
        self.assertEqual(sorted(c.id for c in self.node.containers().values()), sorted(before))
        pod_containers = sorted(before.values(), key=lambda c: c.pid)
        os.kill(pod_containers[0].pid, 9)  # the sidecar began before the other
        wait_for("the sidecar is back", lambda: self.node.pods()["side"].restarts == 1 and self.node.pods()["side"].is_running(), 20)
        self.assertEqual(self.lines("side"), ["setup"])


if __name__ == "__main__":
    contained.main()
