"""Smaller features of pods: signals that stop containers, restart policies and rules of single containers, names, standard input,
readiness gates, the order in which sidecars end, and a pod that loses its sandbox before it has begun."""

import json
import os

import contained
from node import wait_for
from pod_case import PodCase, inside, pod, shell

SLEEP = "exec sleep 1000"
LINUX = {"name": "linux"}
STOP_POD_SANDBOX = 3  # RuntimeService


class Features(PodCase):
    def prepare(self):
        super().prepare()
        self.shared = os.path.join(self.node.root, "shared")
        os.makedirs(self.shared)
        self.volume = {"name": "shared", "hostPath": {"path": self.shared}}
        self.mount = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}

    def written(self, name="log"):
        path = os.path.join(self.shared, name)
        if not os.path.exists(path):
            return []
        with open(path, encoding="utf-8") as file:
            return file.read().split()

    def phase_is(self, name, phase):
        def has():
            found = self.node.pods().get(name)
            return found if found and found.phase == phase else None
        try:
            return wait_for(f"{name} is {phase}", has, 30)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{list(self.node.pods().values())}") from None

    def remove(self, name, limit=30):
        os.unlink(os.path.join(self.node.manifests, name + ".json"))
        wait_for(f"{name} is gone", lambda: name not in self.node.pods(), limit)

    def test_a_stop_signal_of_the_containers_own(self):
        script = "trap 'echo usr1 >> /shared/log; exit 0' USR1; trap 'echo term >> /shared/log; exit 0' TERM; echo up; while true; do sleep 0.1; done"
        made = pod("signal", shell("one", script, lifecycle={"stopSignal": "SIGUSR1"}, **self.mount), volumes=[self.volume], os=LINUX)
        made["spec"]["terminationGracePeriodSeconds"] = 20
        found, _ = self.run_pod(made)
        self.wait_for_lines(found, 1)
        self.remove("signal")
        self.assertEqual(self.written(), ["usr1"])
        self.assertIn("os: {name: linux}", self.refused(pod("bad", shell("one", SLEEP, lifecycle={"stopSignal": "SIGUSR1"}))))
        self.assertIn("stopSignal", self.refused(pod("bad", shell("one", SLEEP, lifecycle={"stopSignal": "SIGNONE"}), os=LINUX)))

    def test_restart_policies_of_single_containers(self):
        rules = [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]
        twice = "if [ -e /shared/once ]; then exit 3; fi; touch /shared/once; exit 42"
        self.node.drop(pod("rules", shell("one", twice, restartPolicy="Never", restartPolicyRules=rules, **self.mount),
                           volumes=[self.volume], restartPolicy="Never"))
        found = self.phase_is("rules", "Failed")
        status = json.loads(found.json)["status"]["containerStatuses"][0]
        self.assertEqual(status["restartCount"], 1)
        self.assertEqual(status["state"]["terminated"]["exitCode"], 3)
        self.assertEqual(status["lastState"]["terminated"]["exitCode"], 42)
        # Against the pod's policy Always.
        self.node.drop(pod("policies", shell("never", "exit 0", restartPolicy="Never"), shell("onfailure", "exit 0", restartPolicy="OnFailure")))
        self.phase_is("policies", "Succeeded")
        self.node.drop(pod("mixed", shell("ends", "exit 1", restartPolicy="Never"), shell("stays", SLEEP)))
        found = self.phase_is("mixed", "Running")
        self.assertEqual(found.restarts, 0)
        self.assertIn("restartPolicyRules", self.refused(pod("bad", shell("one", SLEEP, restartPolicyRules=rules))))

    def test_a_hostname_that_counts_before_all(self):
        found, container = self.run_pod(pod("named", shell("one", SLEEP), hostnameOverride="box.example.org", hostname="web", subdomain="shop"))
        self.assertEqual(inside(container.pid, "hostname").strip(), "box.example.org")
        hosts = [line.split() for line in inside(container.pid, "cat", "/etc/hosts").splitlines()]
        self.assertIn([found.addresses[0], "box.example.org"], hosts)
        self.assertIn("hostNetwork", self.refused(pod("bad", shell("one", SLEEP), hostnameOverride="box", hostNetwork=True)))

    def test_standard_input_stays_open(self):
        self.run_pod(pod("open", shell("one", "cat; echo ended; exit 0", stdin=True)))
        self.node.drop(pod("closed", shell("one", "cat; exit 0"), restartPolicy="Never"))
        self.phase_is("closed", "Succeeded")
        found = self.node.pods()["open"]
        self.assertTrue(found.is_running(), found)
        self.assertEqual((found.restarts, self.log_lines(found)), (0, []))

    def test_readiness_gates_stay_closed(self):
        found, _ = self.run_pod(pod("gated", shell("one", SLEEP), readinessGates=[{"conditionType": "example.com/balanced"}]))
        conditions = {one["type"]: one for one in json.loads(found.json)["status"]["conditions"]}
        self.assertEqual(conditions["ContainersReady"]["status"], "True")
        self.assertEqual((conditions["Ready"]["status"], conditions["Ready"].get("reason")), ("False", "ReadinessGatesNotReady"))
        self.assertIn("example.com/balanced", conditions["Ready"]["message"])

    def test_sidecars_end_one_after_the_other_each_with_its_hook(self):
        def sidecar(name):
            script = f"trap 'echo {name}-term >> /shared/log; exit 0' TERM; while true; do sleep 0.1; done"
            hook = {"preStop": {"exec": {"command": ["/bin/sh", "-c", f"echo {name}-hook >> /shared/log"]}}}
            return shell(name, script, restartPolicy="Always", lifecycle=hook, **self.mount)
        made = pod("ordered", shell("main", "trap 'echo main-term >> /shared/log; exit 0' TERM; while true; do sleep 0.1; done", **self.mount),
                   volumes=[self.volume], initContainers=[sidecar("first"), sidecar("second")])
        made["spec"]["terminationGracePeriodSeconds"] = 30
        self.run_pod(made)
        self.remove("ordered", 60)
        self.assertEqual(self.written(), ["main-term", "second-hook", "second-term", "first-hook", "first-term"])

    def test_a_pod_that_loses_its_sandbox_before_it_has_begun_has_failed(self):
        waits = {**shell("second", SLEEP), "image": "pintle.local/test/nowhere:1", "imagePullPolicy": "Never"}
        self.node.drop(pod("lost", shell("main", SLEEP), initContainers=[shell("first", "exit 0"), waits], restartPolicy="Never"))
        found = self.wait_for_message("lost", "ErrImageNeverPull")
        self.assertEqual(found.phase, "Pending")
        self.node.admin.call("runtime.v1.RuntimeService", STOP_POD_SANDBOX, {1: found.sandbox})
        found = self.phase_is("lost", "Failed")
        self.assertIn("sandbox was lost", found.json)

    def test_a_ready_container_stays_ready_when_the_agent_is_replaced(self):
        probe = {"exec": {"command": ["/bin/sh", "-c", "test ! -e /shared/slow || sleep 15"]}, "periodSeconds": 1, "timeoutSeconds": 20}
        self.run_pod(pod("serving", shell("one", SLEEP, readinessProbe=probe, **self.mount), volumes=[self.volume]))
        self.assertEqual(self.node.pods()["serving"].ready, 1)
        # From here on no probe answers in time to tell the new agent.
        with open(os.path.join(self.shared, "slow"), "w", encoding="utf-8"):
            pass
        self.node.kill()
        self.node.start()
        # What is told at first is what the former one told; when it starts other pods, it has looked for itself.
        self.run_pod(pod("next", shell("one", SLEEP)))
        seen = self.node.pods()["serving"]
        self.assertEqual((seen.phase, seen.ready), ("Running", 1), seen)


if __name__ == "__main__":
    contained.main()
