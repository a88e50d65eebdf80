"""What pods leave behind, and what nobody uses: dead containers, logs, images."""

import json
import os
import subprocess

import contained
import machine
import pods
from node import wait_for
from pod_case import PodCase, pod, shell

SLEEP = "exec sleep 1000"
GONE, FOREIGN = "4e47e218-b2dd-8f7a-be44-45a5eede15d4", "4e47e218-b2dd-4f7a-be44-45a5eede15d4"


def image(name, mebibytes=1):
    """The archive of an image of about that size, and its reference."""
    reference = f"pintle.local/test/{name}:latest"
    padding = os.path.join(contained.root(), f"{name}.padding")
    with open(padding, "wb") as file:
        file.write(os.urandom(mebibytes << 20))
    programs = {"bin/workload": os.path.join(contained.build(), "tests/harness/workload"), "padding": padding}
    return pods.archive_of(reference, programs, ["/bin/workload", "sleep"]), reference


class Garbage(PodCase):
    def prepare(self):
        super().prepare()
        self.config = self.node.plugins["node-agent"]["config"]
        self.config.update(evictionHard={signal: "0%" for signal in (
            "memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")})

    def images(self):
        return self.node.pintle("image", "ls")

    def apply(self, **config):
        self.config.update(config)
        self.node.apply(self.node.plugins)
        self.node.wait_ready()

    def test_so_many_dead_containers_stay(self):
        self.apply(maximumDeadContainersPerContainer=0,
                   restartBackoff={"initialSeconds": 0.05, "maximumSeconds": 0.05, "resetSeconds": 60})
        self.node.drop(pod("fails", shell("one", "echo $((1+1)); exit 1")))
        wait_for("it was restarted", lambda: self.node.pods().get("fails") and self.node.pods()["fails"].restarts >= 4)
        folder = self.node.log_folder(self.node.pods()["fails"], "one")
        # Of two at most the newer is about to be the only one.
        wait_for("only the newest is left", lambda: len(os.listdir(folder)) == 1 and "0.log" not in os.listdir(folder))
        # As many as are left before the newest is left of all pods together, too.
        before = self.node.pods()["fails"].restarts  # an agent that has just begun does not know them yet
        self.apply(maximumDeadContainersPerContainer=-1, maximumDeadContainers=2, imageGCPeriod="500ms")
        wait_for("it was restarted", lambda: self.node.pods()["fails"].restarts >= before + 12)
        self.apply(restartBackoff={"initialSeconds": 300, "maximumSeconds": 300, "resetSeconds": 600})
        wait_for("few are left", lambda: len(os.listdir(folder)) <= 3)

    def test_logs_of_pods_that_have_gone_go(self):
        for uid in (GONE, FOREIGN):
            os.makedirs(os.path.join(self.node.logs, f"default_gone_{uid}", "one"))
        found, _ = self.run_pod(pod("here", shell("one", "echo hi; " + SLEEP)))
        self.wait_for_lines(found, 1)
        self.apply(imageGCPeriod="500ms")
        wait_for("they have gone", lambda: not os.path.exists(os.path.join(self.node.logs, f"default_gone_{GONE}")))
        self.assertTrue(os.path.exists(os.path.join(self.node.logs, f"default_gone_{FOREIGN}")), "of another kubelet")
        self.assertEqual(self.log_lines(found), ["hi"])

    def test_images_that_nobody_uses_go_after_their_time(self):
        archive, other = image("other")
        kept_archive, kept = image("kept")
        self.node.pintle("image", "load", archive, kept_archive)
        self.run_pod(pod("user", shell("one", SLEEP)))
        self.apply(imageMinimumGCAge="0s", imageMaximumGCAge="2s", imageGCPeriod="500ms")
        self.assertIn("may be removed", self.node.pintle("image", "unpin", other, pods.IMAGE))
        wait_for("the unused one has gone", lambda: other.split(":")[0] not in self.images(), 20)
        self.assertIn(pods.IMAGE.split(":")[0], self.images())
        self.assertIn(kept.split(":")[0], self.images(), "what was loaded may not be had again: it is pinned")
        self.assertIs(json.loads(self.node.pintle("image", "inspect", kept, "-o", "json"))["pinned"], True)
        self.node.pintle("image", "unpin", kept)
        wait_for("it goes when it is not pinned any more", lambda: kept.split(":")[0] not in self.images(), 20)

    def test_the_longest_unused_images_go_from_a_full_disk(self):
        disk = os.path.join(contained.root(), "disk-" + os.path.basename(self.node.root))
        os.makedirs(disk)
        self.node.remove_pods()
        self.node.stop()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m,mode=0700", "tmpfs", disk], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", disk], check=False)
        self.before = machine.Machine()
        self.node.state = os.path.join(disk, "state")
        os.makedirs(self.node.state)
        self.node.start()
        names = {}
        for name in ("used-lately", "never-used", "in-use"):
            archive, names[name] = image(name, 10)
            self.node.pintle("image", "load", archive)
            self.node.pintle("image", "unpin", names[name])
        for name in ("used-lately", "in-use"):
            container = {**pods.container("one", "sleep"), "image": names[name]}
            self.run_pod(pod(name, container))
        self.apply(imageMinimumGCAge="0s", imageGCPeriod="500ms", imageGCHighThresholdPercent=99, imageGCLowThresholdPercent=98)
        uses = os.path.join(self.node.state, "shared", "node-agent", "image-uses.json")

        def recorded():
            with open(uses, encoding="ascii") as file:
                return file.read()
        wait_for("their uses are remembered", lambda: '"used":1' in recorded())
        self.node.take("used-lately")
        wait_for("it has gone", lambda: "used-lately" not in self.node.pods())
        wait_for("its use has ended", lambda: recorded().count('"used":0') == 1)
        self.node.kill()  # what was used when outlives the daemon
        info = os.statvfs(self.node.state)
        used = 100 - info.f_bavail * 100 // info.f_blocks
        self.config.update(imageGCHighThresholdPercent=used, imageGCLowThresholdPercent=used - 3)
        self.node.start()
        wait_for("one has gone", lambda: "never-used" not in self.images())
        for name in ("used-lately", "in-use"):
            self.assertIn(f"test/{name}", self.images())
        self.assertIn("removed an unused image", self.node.log_tail(200))


if __name__ == "__main__":
    contained.main()
