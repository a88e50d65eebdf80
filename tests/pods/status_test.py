"""What a pod's status tells, to the letter: phases, conditions with their reasons and times, states and reasons of its containers."""

import json
import os
import time

import contained
import pods
from node import wait_for
from pod_case import PodCase, pod, shell

SLEEP = "exec sleep 1000"


def waits_for(folder, name):
    """A script's words that wait for a file of the test."""
    return f"until [ -e {folder}/{name} ]; do sleep 0.05; done; "


class Status(PodCase):
    def setUp(self):
        super().setUp()
        self.folder = os.path.join(self.node.root, "gates")
        os.makedirs(self.folder)
        self.volume = {"volumes": [{"name": "gates", "hostPath": {"path": self.folder}}]}

    def container(self, name, script, **fields):
        return shell(name, script, volumeMounts=[{"name": "gates", "mountPath": "/gates"}], **fields)

    def open(self, name):
        with open(os.path.join(self.folder, name), "w", encoding="ascii"):
            pass

    def status(self, name):
        found = self.node.pods().get(name)
        return json.loads(found.json)["status"] if found and found.json else {}

    def until(self, name, phase, **conditions):
        """Until the pod is in that phase and its conditions have those values; its status."""
        def is_so():
            status = self.status(name)
            values = {one["type"]: one["status"] for one in status.get("conditions", [])}
            return status if status.get("phase") == phase and conditions.items() <= values.items() else None
        try:
            return wait_for(f"{name} is {phase} with {conditions}", is_so, 20)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.status(name)}") from None

    def waiting(self, name, reason, container=0):
        """The container's status once it waits for that reason."""
        def is_so():
            listed = self.status(name).get("containerStatuses", [])
            return listed[container] if listed and listed[container]["state"].get("waiting", {}).get("reason") == reason else None
        try:
            return wait_for(f"{name} waits: {reason}", is_so, 20)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.status(name)}") from None

    @staticmethod
    def told(status, kind):
        one = next(one for one in status["conditions"] if one["type"] == kind)
        return one["status"], one.get("reason", ""), one.get("message", "")

    @staticmethod
    def since(status, kind):
        return next(one for one in status["conditions"] if one["type"] == kind)["lastTransitionTime"]

    def test_conditions_of_a_pod_from_its_first_to_its_last_container(self):
        ready = {"exec": {"command": ["/bin/sh", "-c", "[ -e /gates/ready ]"]}, "periodSeconds": 1, "failureThreshold": 1}
        self.node.drop(pod("life", self.container("one", waits_for("/gates", "end"), readinessProbe=ready), self.container("two", waits_for("/gates", "end")),
                           initContainers=[self.container("setup", waits_for("/gates", "begin"))], restartPolicy="Never", **self.volume))
        status = self.until("life", "Pending", PodReadyToStartContainers="True", Initialized="False")
        self.assertEqual(self.told(status, "Initialized"),
                         ("False", "ContainersNotInitialized", "containers with incomplete status: [setup]"))
        for kind in ("Ready", "ContainersReady"):
            self.assertEqual(self.told(status, kind), ("False", "ContainersNotReady", "containers with unready status: [one two]"))
        self.assertEqual(self.told(status, "PodScheduled"), ("True", "", ""))
        wait_for("its init container runs", lambda: "running" in self.status("life")["initContainerStatuses"][0]["state"])
        self.assertEqual(self.status("life")["containerStatuses"][0]["state"], {"waiting": {"reason": "PodInitializing"}})

        self.open("begin")
        status = self.until("life", "Running", Initialized="True", Ready="False")
        wait_for("the second container is ready", lambda: self.status("life")["containerStatuses"][1]["ready"])
        status = self.status("life")
        self.assertEqual(self.told(status, "Ready"), ("False", "ContainersNotReady", "containers with unready status: [one]"))
        done = status["initContainerStatuses"][0]
        self.assertEqual((done["ready"], done["state"]["terminated"]["reason"], done["state"]["terminated"]["exitCode"]), (True, "Completed", 0))
        self.assertEqual(status["podIP"], self.node.pods()["life"].addresses[0])
        self.assertEqual(status["podIPs"], [{"ip": status["podIP"]}])
        self.assertEqual(status["hostIP"], "10.213.0.1")
        self.assertEqual(status["qosClass"], "BestEffort")
        self.assertIn("startTime", status)
        before = status

        # Transitions are told in whole seconds.
        wait_for("another second has begun", lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) > self.since(before, "Ready"))
        self.open("ready")
        status = self.until("life", "Running", Ready="True", ContainersReady="True")
        self.assertEqual(self.told(status, "Ready"), ("True", "", ""))
        self.assertGreater(self.since(status, "Ready"), self.since(before, "Ready"))
        self.assertEqual(self.since(status, "PodScheduled"), self.since(before, "PodScheduled"))

        self.open("end")
        status = self.until("life", "Succeeded", Ready="False", PodReadyToStartContainers="False")
        self.assertEqual(self.told(status, "Ready"), ("False", "PodCompleted", ""))
        self.assertEqual(self.told(status, "ContainersReady"), ("False", "PodCompleted", ""))
        self.assertEqual(self.told(status, "Initialized")[0], "True")
        for one in status["containerStatuses"]:
            ended = one["state"]["terminated"]
            self.assertEqual((ended["exitCode"], ended["reason"], one["ready"], one["started"]), (0, "Completed", False, False))
            self.assertLessEqual(ended["startedAt"], ended["finishedAt"])

    def test_a_pod_fails_when_its_last_container_has_ended(self):
        self.node.drop(pod("half", self.container("bad", "exit 3"), self.container("good", waits_for("/gates", "half")), restartPolicy="Never", **self.volume))
        wait_for("one has failed", lambda: "terminated" in (self.status("half").get("containerStatuses") or [{"state": {}}])[0]["state"], 20)
        self.until("half", "Running")  # as soon as the second one has begun too
        self.open("half")
        status = self.until("half", "Failed")
        self.assertEqual(self.told(status, "Ready"), ("False", "PodFailed", ""))
        self.assertEqual([one["state"]["terminated"]["reason"] for one in status["containerStatuses"]], ["Error", "Completed"])

    def test_what_a_container_waits_for(self):
        absent = {**pods.container("one", "sleep"), "image": "absent.example/nothing:1"}
        self.node.drop(pod("never", {**absent, "imagePullPolicy": "Never"}))
        self.node.drop(pod("name", {**absent, "image": "No:Such:Name"}))
        self.node.drop(pod("root", shell("one", SLEEP, securityContext={"runAsNonRoot": True})))
        self.node.drop(pod("command", {**pods.container("one"), "command": ["/bin/no-such-program"], "args": []}))
        self.node.drop(pod("loop", shell("one", "exit 5")))
        self.assertIn("absent.example/nothing:1", self.waiting("never", "ErrImageNeverPull")["state"]["waiting"]["message"])
        self.waiting("name", "InvalidImageName")
        self.assertIn("runAsNonRoot", self.waiting("root", "CreateContainerConfigError")["state"]["waiting"]["message"])
        self.assertIn("no-such-program", self.waiting("command", "CreateContainerError")["state"]["waiting"]["message"])
        one = self.waiting("loop", "CrashLoopBackOff")
        self.assertIn("back-off", one["state"]["waiting"]["message"])
        last = one["lastState"]["terminated"]
        self.assertEqual((last["exitCode"], last["reason"]), (5, "Error"))
        self.assertEqual(one["containerID"], last["containerID"])
        for name, phase in (("never", "Pending"), ("root", "Pending"), ("loop", "Running")):
            self.assertEqual(self.status(name)["phase"], phase, name)
        # Who is no root may run.
        self.run_pod(pod("user", shell("one", SLEEP, securityContext={"runAsNonRoot": True, "runAsUser": 1000})))


if __name__ == "__main__":
    contained.main()
