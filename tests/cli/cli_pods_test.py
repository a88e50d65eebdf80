"""The commands of `pintle` for pods and images, on a real node with real containers."""

import json
import os
import subprocess
import threading

import contained
import pods
from node import NodeTest, wait_for

EXIT = {"invalid": 2, "not found": 3, "conflict": 6, "exec failed": 125}


def shell(name, script):
    return {"name": name, "image": pods.IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", script]}


class Lines:
    """What a program prints, collected while it runs."""

    def __init__(self, stream):
        self.changed = threading.Condition()
        self.lines = []
        self.reader = threading.Thread(target=self._read, args=(stream,))
        self.reader.start()

    def _read(self, stream):
        for line in stream:
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                self.changed.notify_all()

    def count(self):
        with self.changed:
            return len(self.lines)

    def wait_for(self, count, limit=20):
        with self.changed:
            return self.changed.wait_for(lambda: len(self.lines) >= count, limit)

    def join(self):
        self.reader.join()


class CommandLine(NodeTest):
    def run_pintle(self, *arguments, **options):
        return self.node.pintle(*arguments, check=False, **options)

    def apply(self, pod):
        path = os.path.join(self.node.root, "manifest.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(pod, file)
        return self.node.pintle("pod", "apply", "-f", path)

    def remove(self, *names):
        self.node.pintle("pod", "rm", *names)
        self.node.wait_for_none()

    def test_pods_are_applied_listed_described_and_removed(self):
        web = pods.pod("web", pods.container("one", "ticks", 1000), pods.container("two", "ticks", 1000))
        self.assertEqual(self.apply(web), "pod/web created\n")
        self.assertEqual(self.apply(web), "pod/web unchanged\n")
        self.node.wait_for_pods(1)
        [pod] = json.loads(self.node.pintle("pod", "ls", "-o", "json"))["pods"]
        self.assertEqual((pod["namespace"], pod["name"], pod["phase"], pod["ready"], pod["containers"]), ("default", "web", "Running", 2, 2))
        self.assertRegex(self.node.pintle("pod", "ls"), rf"default +web +2/2 +Running +0 +\d+s +{pod['addresses'][0]}")
        described = self.node.pintle("pod", "describe", "web")
        self.assertRegex(described, rf"(?m)^  one +yes +0 +{pods.IMAGE} +running since \d+s$")
        self.assertEqual(json.loads(self.node.pintle("pod", "describe", "default/web", "-o", "json"))["status"]["phase"], "Running")

        missing = self.run_pintle("pod", "describe", "wbe")
        self.assertEqual(missing.returncode, EXIT["not found"])
        self.assertIn("did you mean web?", missing.stderr)
        self.assertEqual(self.run_pintle("pod", "rm", "wbe").returncode, EXIT["not found"])
        self.assertEqual(self.node.pintle("pod", "rm", "web"), "pod/web is being removed\n")
        self.node.wait_for_none()

    def test_a_container_that_never_ran_says_why(self):
        self.apply(pods.pod("web", {"name": "one", "image": "nowhere/none:1", "imagePullPolicy": "Never"}))
        wait_for("the reason", lambda: "ErrImageNeverPull" in self.node.pintle("pod", "ls"))
        refused = self.run_pintle("pod", "logs", "web", "-c", "one")
        self.assertEqual(refused.returncode, EXIT["conflict"])
        self.assertIn("the container one of pod web has not been started: waiting: ErrImageNeverPull", refused.stderr)
        self.remove("web")

    def test_a_broken_manifest_is_refused_with_its_place(self):
        path = os.path.join(self.node.root, "broken.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: one, imag: x}\n")
        for arguments in (("-f", path), ("-f", path, "--dry-run")):
            refused = self.run_pintle("pod", "apply", *arguments)
            self.assertEqual(refused.returncode, EXIT["invalid"])
            self.assertIn(f"{path}:6:", refused.stderr)
        self.assertEqual(json.loads(self.node.pintle("pod", "ls", "-o", "json"))["pods"], [])

    def test_standard_input_and_dry_run_are_taken(self):
        manifest = json.dumps(pods.pod("web", pods.container("one", "ticks", 1000)))
        self.assertEqual(self.node.pintle("pod", "apply", "-f", "-", "--dry-run", input=manifest), "pod/web created (dry run)\n")
        self.assertEqual(json.loads(self.node.pintle("pod", "ls", "-o", "json"))["pods"], [])
        self.node.pintle("pod", "apply", "-f", "-", input=manifest)
        self.node.wait_for_pods(1)
        self.remove("web")

    def test_exec_gives_output_and_exit_code_of_the_command(self):
        self.apply(pods.pod("web", pods.container("one", "ticks", 1000), pods.container("two", "ticks", 1000)))
        self.node.wait_for_pods(1)
        done = self.run_pintle("pod", "exec", "web", "-c", "two", "--", "/bin/sh", "-c", "echo out; echo err >&2; exit 7")
        self.assertEqual((done.stdout, done.stderr, done.returncode), ("out\n", "err\n", 7))
        first = self.run_pintle("pod", "exec", "web", "--", "/bin/true", "-o", "json")
        self.assertEqual((first.returncode, first.stdout), (0, ""))
        self.assertIn("container one of one, two", first.stderr)
        for arguments in (("wbe", "--", "true"), ("web", "-c", "three", "--", "true")):
            self.assertEqual(self.run_pintle("pod", "exec", *arguments).returncode, EXIT["exec failed"])
        self.remove("web")

    def test_logs_are_printed_without_their_prefix_and_tailed(self):
        self.apply(pods.pod("web", shell("one", "echo first; echo second >&2; echo third; sleep 1000"),
                            shell("two", "echo a; echo b; echo c; sleep 1000")))
        self.node.wait_for_pods(1)

        def logs(container):
            done = self.run_pintle("pod", "logs", "web", "-c", container)
            return done.stdout, done.stderr
        wait_for("the log of one", lambda: logs("one") == ("first\nthird\n", "second\n"))
        wait_for("the log of two", lambda: logs("two") == ("a\nb\nc\n", ""))
        self.assertEqual(self.node.pintle("pod", "logs", "web", "-c", "two", "--tail", "2"), "b\nc\n")
        self.assertRegex(self.node.pintle("pod", "logs", "web", "-c", "two", "--timestamps", "--tail", "1"), r"^\d{4}-\d\d-\d\dT[^ ]+ c\n$")
        self.assertEqual(self.run_pintle("pod", "logs", "web", "-p").returncode, EXIT["not found"])
        self.remove("web")

    def test_followed_logs_miss_no_line(self):
        """Not while pintled is away either; they end with the container."""
        self.apply(pods.pod("web", pods.container("one", "ticks", 20)))
        self.node.wait_for_pods(1)
        with subprocess.Popen([self.node.program("pintle"), "--socket", self.node.admin.path, "pod", "logs", "-f", "web"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as following:
            lines = Lines(following.stdout)
            self.assertTrue(lines.wait_for(20))
            self.node.kill()
            self.assertTrue(lines.wait_for(lines.count() + 20), "the log goes on without pintled")
            self.node.start()
            self.assertTrue(lines.wait_for(lines.count() + 20))
            self.remove("web")
            self.assertEqual(following.wait(20), 0, "it ends with the container")
            lines.join()
            self.assertEqual(lines.lines, [f"tick {number}" for number in range(lines.count())])

    def test_images_are_listed_and_removed_unless_in_use(self):
        [image] = [one for one in json.loads(self.node.pintle("image", "ls", "-o", "json"))["images"] if pods.IMAGE in one["tags"]]
        self.assertTrue(image["id"].startswith("sha256:"))
        self.assertIn(pods.IMAGE, self.node.pintle("image", "ls"))
        self.apply(pods.pod("web", pods.container("one", "ticks", 1000)))
        self.node.wait_for_pods(1)
        self.assertEqual(self.run_pintle("image", "rm", pods.IMAGE).returncode, EXIT["conflict"])
        self.remove("web")
        wait_for("the image is free", lambda: self.run_pintle("image", "rm", pods.IMAGE).returncode == 0)
        self.assertEqual(json.loads(self.node.pintle("image", "ls", "-o", "json"))["images"], [])
        self.assertEqual(self.run_pintle("image", "load", "/nowhere.tar").returncode, EXIT["not found"])
        with open(os.path.join(self.node.root, "wrong.tar"), "wb") as file:
            file.write(b"no archive" * 100)
        self.assertEqual(self.run_pintle("image", "load", file.name).returncode, EXIT["invalid"])

    def test_names_of_pods_and_containers_are_completed(self):
        self.apply(pods.pod("web", pods.container("one", "ticks", 1000), pods.container("two", "ticks", 1000)))
        self.node.wait_for_pods(1)
        def complete(*words):
            done = subprocess.run([self.node.program("pintle"), "__complete", "--socket", self.node.admin.path, *words], capture_output=True,
                                  text=True, check=True)
            return [line.split("\t")[0] for line in done.stdout.splitlines()]
        self.assertEqual(complete("pod", "logs", ""), ["web"])
        self.assertEqual(complete("pod", "logs", "web", "-c", ""), ["one", "two"])
        self.assertEqual(complete("image", "rm", "pintle"), [pods.IMAGE])
        self.assertEqual(complete("plugin", "inspect", "no"), ["node-agent"])
        self.remove("web")


if __name__ == "__main__":
    contained.main()
