"""What a pod's manifest says is what its processes see: a whole node, real containers."""

import json
import os
import statistics
import time
import unittest

import contained
import pods
import processes
from node import wait_for
from pod_case import PodCase, shell, status_of


class Pods(PodCase):
    def test_variables_and_commands(self):
        container = shell("one", "echo $GREETING $IP; echo \"$0\" \"$1\"; pwd; exec sleep 1000", workingDir="/tmp", env=[
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "GREETING", "value": "hello-$(NAME)-$$(NAME)"}])
        container["args"] = ["first-$(NAME)", "second"]
        pod, _ = self.run_pod(pods.pod("fields", container))
        lines = self.wait_for_lines(pod, 3)
        self.assertEqual(lines, [f"hello-fields-$(NAME) {pod.addresses[0]}", "first-fields second", "/tmp"])

    def test_restart_policies(self):
        self.node.drop(pods.pod("done", pods.container("one", "exit", 0), restart="Never"))
        self.node.drop(pods.pod("failed", pods.container("one", "exit", 3), restart="Never"))
        self.node.drop(pods.pod("enough", pods.container("one", "exit", 0), restart="OnFailure"))
        self.node.drop(pods.pod("retried", pods.container("one", "exit", 4), restart="OnFailure"))
        self.node.drop(pods.pod("again", pods.container("one", "exit", 1), restart="Always"))

        def in_phase(name, phase):
            pod = self.node.pods().get(name)
            return pod is not None and pod.phase == phase
        wait_for("done has succeeded", lambda: in_phase("done", "Succeeded"), 20)
        wait_for("failed has failed", lambda: in_phase("failed", "Failed"), 20)
        wait_for("enough has succeeded", lambda: in_phase("enough", "Succeeded"), 20)
        for name in ("done", "failed", "enough"):
            wait_for(f"{name} is over", lambda name=name: not self.node.pods()[name].sandbox, 20)
            self.assertEqual(self.node.pods()[name].restarts, 0, name)
        wait_for("retried is tried again", lambda: self.node.pods()["retried"].restarts >= 1, 20)

        def waits():
            pod = self.node.pods().get("again")
            return pod if pod and pod.restarts == 1 and "CrashLoopBackOff" in pod.message else None
        looping = wait_for("again waits for its back-off", waits, 20)
        self.assertIn("back-off 10s", looping.message)
        self.assertEqual(looping.phase, "Running")

    def test_edited_and_broken_manifests(self):
        pod, container = self.run_pod(pods.pod("edited", pods.container("one", "sleep")))
        with open(os.path.join(self.node.manifests, "edited.json"), "w", encoding="utf-8") as file:
            file.write('{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "edited"}, "spec": {"containrs": []}}')
        wait_for("the mistake is told", lambda: "did you mean containers" in self.node.log_tail())
        self.assertEqual([one.pid for one in self.node.containers().values()], [container.pid])
        self.node.drop(pods.pod("edited", pods.container("one", "serve", 8080)))
        wait_for("another container runs", lambda: [one.pid for one in self.node.containers().values()] not in ([], [container.pid]), 20)
        self.assertFalse(os.path.exists(os.path.dirname(self.node.log_folder(pod, "one"))))

    def test_volumes_are_shared(self):
        shared = os.path.join(contained.root(), "shared-folder")
        writer = shell("one", "echo from-one > /data/file; echo from-one > /host/file; exec sleep 1000",
                       volumeMounts=[{"name": "data", "mountPath": "/data"}, {"name": "host", "mountPath": "/host"}])
        reader = shell("two", "until [ -s /in/file ]; do sleep 0.05; done; cat /in/file; (echo x > /in/file) 2>/dev/null || echo refused; exec sleep 1000",
                       volumeMounts=[{"name": "data", "mountPath": "/in", "readOnly": True}])
        pod = pods.pod("volumes", writer, reader)
        pod["spec"]["volumes"] = [{"name": "data", "emptyDir": {}}, {"name": "host", "hostPath": {"path": shared, "type": "DirectoryOrCreate"}}]
        running, _ = self.run_pod(pod)
        lines = self.wait_for_lines(running, 2, container="two")
        self.assertEqual(lines[0], "from-one")
        self.assertEqual(lines[-1], "refused")
        with open(os.path.join(shared, "file"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "from-one\n")

    def test_security_context(self):
        tight = shell("one", "(echo > /x) 2>&1; exec sleep 1000", securityContext={
            "runAsUser": 1234, "runAsGroup": 2345, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]}})
        pod, container = self.run_pod(pods.pod("tight", tight))
        # A container counts as running a moment before the OCI runtime, confining itself, becomes its process.
        wait_for("its own process runs", lambda: os.readlink(f"/proc/{container.pid}/exe") == "/bin/busybox")
        status = status_of(container.pid)
        self.assertEqual(status["Uid"].split()[0], "1234")
        self.assertEqual(status["Gid"].split()[0], "2345")
        self.assertEqual(int(status["CapEff"], 16), 0)
        self.assertEqual(int(status["CapBnd"], 16), 0)
        self.assertEqual(status["NoNewPrivs"], "1")
        self.assertEqual(status["Seccomp"], "2")
        wait_for("the root is read-only", lambda: "Read-only file system" in "".join(self.log_lines(pod)))
        with open(f"/proc/{container.pid}/oom_score_adj", encoding="utf-8") as file:
            self.assertEqual(file.read().strip(), "1000")
        loose = shell("one", "exec sleep 1000", securityContext={"privileged": True})
        _, container = self.run_pod(pods.pod("loose", loose))
        self.assertEqual(status_of(container.pid)["Seccomp"], "0")
        self.assertNotEqual(int(status_of(container.pid)["CapEff"], 16) & (1 << 21), 0, "CAP_SYS_ADMIN")

    def test_namespaces_of_the_node(self):
        pod = pods.pod("hostly", shell("one", "hostname; exec sleep 1000"))
        pod["spec"].update(hostNetwork=True, hostPID=True, hostIPC=True)
        running, container = self.run_pod(pod)
        for name in ("net", "pid", "ipc"):
            self.assertEqual(os.readlink(f"/proc/{container.pid}/ns/{name}"), os.readlink(f"/proc/self/ns/{name}"), name)
        self.assertEqual(running.addresses, ["10.213.0.1"])
        own = pods.pod("own", shell("one", "hostname; exec sleep 1000"))
        own["spec"]["hostname"] = "chosen"
        running, container = self.run_pod(own)
        self.assertNotEqual(os.readlink(f"/proc/{container.pid}/ns/net"), os.readlink("/proc/self/ns/net"))
        self.assertEqual(self.wait_for_lines(running, 1), ["chosen"])

    def test_apply_and_rm(self):
        path = os.path.join(contained.root(), "applied.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(pods.pod("applied", pods.container("one", "sleep")), file)
        self.assertIn("created", self.node.pintle("pod", "apply", "-f", path))
        self.assertIn("unchanged", self.node.pintle("pod", "apply", "-f", path))
        self.assertTrue(os.path.exists(os.path.join(self.node.manifests, "default_applied.yaml")))
        self.node.wait_for_pods(1)
        self.node.pintle("pod", "rm", "applied")
        self.assertFalse(os.path.exists(os.path.join(self.node.manifests, "default_applied.yaml")))
        self.node.wait_for_none()

    def test_time_to_a_process(self):
        self.run_pod(pods.pod("warm", pods.container("one", "sleep")))
        took = []
        for number in range(10):
            begun = time.time()
            pod, container = self.run_pod(pods.pod(f"soon{number}", pods.container("one", "sleep")))
            took.append(started_at(container.pid) - begun)
        begun = time.time()
        for number in range(20):
            self.node.drop(pods.pod(f"many{number}", pods.container("one", "sleep")))
        self.node.wait_for_pods(31)
        last = max(started_at(container.pid) for container in self.node.containers().values())
        print(f"manifest to process: median {statistics.median(took) * 1000:.0f} ms of 10, largest {max(took) * 1000:.0f} ms; "
              f"20 at once {1000 * (last - begun):.0f} ms", flush=True)
        self.assertLess(statistics.median(took), 1)


def started_at(pid):
    """When a process was forked, in seconds since 1970, as exact as the kernel's clock ticks."""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + processes.start_time(pid) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    contained.main()
