"""Containers outlive the daemon: `pintled` is killed at random moments, its folders are emptied, truncated and filled up.

What must hold: no container's id, process, start time, network namespace or address changes; no log line is lost or doubled; the
next start adopts all within five seconds; what was half made or half removed converges; nothing is left in the end.

PINTLE_TEST_SEED repeats a run's random choices (each test prints its seed), PINTLE_TEST_KILLS sets how often it kills.
"""

import os
import random
import shutil
import signal
import subprocess
import time

import contained
import pods
from node import NETWORK, RUNTIME, NodeTest, wait_for

PODS = 20
KILLS = int(os.environ.get("PINTLE_TEST_KILLS", "6"))
ADOPTED_WITHIN = 5.0


class Survival(NodeTest):
    def setUp(self):
        seed = int(os.environ.get("PINTLE_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
        self.random = random.Random(seed)
        print(f"PINTLE_TEST_SEED={seed}", flush=True)
        super().setUp()

    def run_ticking_pods(self, count=PODS):
        for index in range(count):
            self.node.drop(pods.ticking(f"ticking-{index}"))
        running = self.node.wait_for_pods(count)
        return [pods.LogReader(self.node.log_folder(pod, name)) for pod in running.values() for name in ("one", "two")]

    def wait_for_ticks(self, readers, more=10):
        """Until each container has written further lines."""
        goals = [(reader, reader.catch_up() + more) for reader in readers]
        wait_for("all containers write on", lambda: all(reader.catch_up() >= goal for reader, goal in goals), 20)

    def check_logs(self, readers):
        self.wait_for_ticks(readers)
        self.assertEqual([problem for reader in readers for problem in reader.problems], [])

    def adopt(self, expected):
        """Starts the daemon; returns after how many seconds it shows `expected` again."""
        begun = time.monotonic()
        self.node.launch()
        self.node.wait_ready(ADOPTED_WITHIN + 10)
        wait_for("everything is adopted", lambda: self.node.picture()[0] >= expected[0], ADOPTED_WITHIN + 10)
        wait_for("the agent knows its pods", lambda: all(pod.is_running() for pod in self.node.pods().values()), 10)
        took = time.monotonic() - begun
        self.assertEqual(self.node.picture(), expected)
        return took

    # ---- kill -9 while pods run ----

    def test_kills_while_pods_run_change_nothing(self):
        readers = self.run_ticking_pods()
        expected = self.node.picture()
        self.assertEqual((len(expected[0]), len(expected[1])), (2 * PODS, PODS))
        took = []
        for _ in range(KILLS):
            time.sleep(self.random.uniform(0, 0.5))
            self.node.kill()
            while self.random.random() < 0.4:  # killed again while it comes up
                self.node.launch()
                time.sleep(self.random.uniform(0, 0.2))
                self.node.kill()
            took.append(self.adopt(expected))
            self.wait_for_ticks(readers, 1)
        self.check_logs(readers)
        lines = sum(reader.expected for reader in readers)
        print(f"{KILLS} kills, {lines} lines; adopted within {max(took):.3f} s at most, {sorted(took)[len(took) // 2]:.3f} s at the median")
        self.assertLess(max(took), ADOPTED_WITHIN)

    # ---- kill -9 while pods come and go ----

    def things_left(self):
        """What the parts of the node still know of pods that have gone."""
        admin, node = self.node.admin, self.node
        left = [f"container of {key}" for key in node.providers(RUNTIME) for _ in admin.call(RUNTIME, 6, provider=key).get(1, [])]
        left += [f"attachment of {key}" for key in node.providers(NETWORK) for _ in admin.call(NETWORK, 5, provider=key).get(1, [])]
        left += [f"sandbox {index}" for index, _ in enumerate(admin.call("runtime.v1.RuntimeService", self.list_sandboxes).get(1, []))]
        return left

    list_sandboxes = 6  # method number of ListPodSandbox

    def test_kills_while_pods_come_and_go_converge(self):
        for turn in range((KILLS + 1) // 2):
            names = [f"pod-{turn}-{index}" for index in range(4)]
            for name in names:
                self.node.drop(pods.ticking(name))
            time.sleep(self.random.uniform(0, 0.8))
            self.node.kill()
            self.node.start()
            running = self.node.wait_for_pods(len(names))
            self.assertEqual(len(self.node.containers()), 2 * len(names), running)
            for name in names:
                self.node.take(name)
            time.sleep(self.random.uniform(0, 0.8))
            self.node.kill()
            self.node.start()
            self.node.wait_for_none()
            wait_for("nothing is left of them", lambda: not self.things_left(), 20)

    # ---- Folders ----

    def test_an_emptied_run_folder_comes_back(self):
        readers = self.run_ticking_pods(3)
        expected = self.node.picture()
        self.node.kill()
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            mounted = [line.split()[4] for line in file if line.split()[4].startswith(self.node.run + "/")]
        for path in reversed(mounted):
            subprocess.run(["umount", "-l", path], check=True)
        shutil.rmtree(self.node.run)
        os.mkdir(self.node.run, 0o700)
        self.adopt(expected)
        self.check_logs(readers)
        self.assertEqual(self.node.pintle("pod", "exec", "ticking-0", "-c", "one", "--", "/bin/echo", "still here").strip(), "still here")

    def state_files(self):
        """Records: all files below the state folder but images' and containers' contents, which nobody could make again."""
        found = []
        for folder, folders, names in os.walk(self.node.state):
            folders[:] = [name for name in folders if name not in ("blobs", "layers", "snapshots", "upper", "rootfs", "work", "merged")]
            found += [os.path.join(folder, name) for name in names]
        return [path for path in found if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path)]

    def test_truncated_state_files_are_survived(self):
        self.run_ticking_pods(2)
        files = self.state_files()
        self.assertGreater(len(files), 5, files)
        self.random.shuffle(files)
        for path in files[:12]:
            self.node.kill()
            if not os.path.exists(path):
                self.node.start()
                continue
            size = os.path.getsize(path)
            os.truncate(path, self.random.choice([0, size // 2, max(0, size - 1)]))
            self.node.start()
            with self.subTest(truncated=os.path.relpath(path, self.node.state)):
                self.node.wait_for_pods(2)
        wait_for("four containers run, and no others", lambda: len(self.node.containers()) == 4, 20)

    def prepare(self):
        if self._testMethodName == "test_a_full_disk_is_survived":
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m,mode=700", "none", self.node.state], check=True)

    def test_a_full_disk_is_survived(self):
        self.addCleanup(subprocess.run, ["umount", "-l", self.node.state], check=False, stderr=subprocess.DEVNULL)
        readers = self.run_ticking_pods(2)
        expected = self.node.picture()
        self.node.drop(pods.pod("ending", pods.container("one", "sleep"), restart="Never"))
        sandbox = self.node.wait_for_pods(3)["ending"].sandbox
        ending = next(one for one in self.node.containers().values() if one.sandbox == sandbox)
        ballast = os.path.join(self.node.state, "ballast")
        with open(ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        os.kill(ending.pid, signal.SIGTERM)
        wait_for("what ends now is seen", lambda: self.node.pods()["ending"].phase != "Running", 20)
        self.assertEqual(self.node.pods()["ending"].phase, "Succeeded", "its exit code was lost")
        self.node.drop(pods.ticking("late"))
        late = wait_for("the agent has tried, and says why it could not",
                        lambda: [pod for name, pod in self.node.pods().items() if name == "late" and pod.message], 20)[0]
        self.assertFalse(late.is_running(), late)
        self.assertTrue(self.node.is_running())
        self.node.kill()
        self.node.launch()
        wait_for("it answers with a full disk", lambda: self.node.admin.request("GET", "/healthz")[0] == 200, 20)
        wait_for("it adopts with a full disk", lambda: self.node.picture()[0] >= expected[0], 20)
        os.unlink(ballast)
        self.node.wait_ready()
        wait_for("the late pod runs", lambda: self.node.pods()["late"].is_running(), 60)
        self.assertTrue(self.node.picture()[0] >= expected[0])
        self.assertEqual(self.node.pods()["ending"].phase, "Succeeded", "a daemon that was killed meanwhile forgot its exit code")
        self.check_logs(readers)
        self.node.remove_pods()
        self.node.stop()
        subprocess.run(["umount", self.node.state], check=True)


if __name__ == "__main__":
    contained.main()
