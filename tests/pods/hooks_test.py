"""The node's OCI hooks: they run for the containers that they are meant for, and a broken one lets none run without it."""

import json
import os

import contained
import pods
from node import wait_for
from pod_case import PodCase, pod, shell

SLEEP = "exec sleep 1000"


class Hooks(PodCase):
    def prepare(self):
        super().prepare()
        self.first, self.second = (os.path.join(self.node.root, name) for name in ("hooks-first", "hooks-second"))
        os.makedirs(self.first)
        os.makedirs(self.second)
        self.node.plugins["runtime-oci"]["config"]["hookFolders"] = [self.first, self.second, "/nowhere/hooks.d"]
        self.told = os.path.join(self.node.root, "told")

    def write(self, folder, name, content):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(content if isinstance(content, str) else json.dumps(content))

    def hook(self, word, when, stage="createRuntime"):
        # A hook gets the container's state on its standard input.
        return {"version": "1.0.0", "when": when, "stages": [stage],
                "hook": {"path": "/bin/sh", "args": ["sh", "-c", f"echo {word} $(cat) >> {self.told}"], "env": ["PATH=/usr/bin:/bin"]}}

    def words(self):
        if not os.path.exists(self.told):
            return []
        with open(self.told, encoding="utf-8") as file:
            return [line.split()[0] for line in file]

    def test_hooks_run_for_whom_they_are_meant(self):
        self.write(self.first, "10-all.json", self.hook("replaced", {"always": True}))
        self.write(self.second, "10-all.json", self.hook("all", {"always": True}))
        self.write(self.first, "20-marked.json", self.hook("marked", {"annotations": {"^example\\.com/mark$": "^y"}}, "prestart"))
        self.write(self.first, "30-both.json", self.hook("both", {"commands": ["/sh$"], "hasBindMounts": True}))
        self.write(self.first, "40-none.json", self.hook("none", {}))
        self.write(self.first, "ignored.txt", "{")
        _, container = self.run_pod(pod("plain", pods.container("one", "sleep")))
        self.assertEqual(self.words(), ["all"])
        with open(self.told, encoding="utf-8") as file:
            self.assertEqual(json.loads(file.read().split(" ", 1)[1])["id"], container.id)
        os.unlink(self.told)
        self.run_pod(pod("marked", shell("one", SLEEP, volumeMounts=[{"name": "v", "mountPath": "/v"}]), volumes=[{"name": "v", "emptyDir": {}}],
                         metadata={"annotations": {"example.com/mark": "yes"}}))
        self.assertEqual(sorted(self.words()), ["all", "both", "marked"])

    def test_annotations_cannot_make_a_pattern_run_away(self):
        self.write(self.first, "10-slow.json", self.hook("slow", {"annotations": {"^example\\.com/long$": "^(a|aa|aaa)+b$"}}))
        self.write(self.first, "20-all.json", self.hook("all", {"always": True}))
        self.run_pod(pod("long", pods.container("one", "sleep"), metadata={"annotations": {"example.com/long": "a" * 100_000}}))
        self.assertEqual(self.words(), ["all"])

    def test_a_broken_hook_lets_no_container_run(self):
        broken = {"no-json.json": ("{", "is no JSON object"), "stage.json": (self.hook("x", {"always": True}, "sometimes"), "is no stage"),
                  "after.json": (self.hook("x", {"always": True}, "poststop"), "not supported yet"),
                  "pattern.json": (self.hook("x", {"commands": ["("]}), "is no regular expression"),
                  "path.json": ({**self.hook("x", {"always": True}), "hook": {"path": "/nowhere/hook"}}, "is not there")}
        for number, (name, (content, why)) in enumerate(broken.items()):
            self.write(self.first, name, content)
            self.node.drop(pod(f"held{number}", shell("one", SLEEP)))
            found = self.wait_for_message(f"held{number}", why)
            self.assertIn(os.path.join(self.first, name), found.message)
            self.assertEqual(self.containers_of(found), [])
            os.unlink(os.path.join(self.first, name))
            self.node.take(f"held{number}")
        wait_for("all have gone", lambda: not self.node.pods())
        self.run_pod(pod("free", shell("one", SLEEP)))


if __name__ == "__main__":
    contained.main()
