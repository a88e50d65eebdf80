"""Logs of containers: a long one is rotated, older ones are compressed, no line is lost, and not more than so many files are kept."""

import glob
import gzip
import os
import signal
import subprocess

import contained
import pods
import processes
from node import wait_for
from pod_case import PodCase, pod, shell


class Logs(PodCase):
    def prepare(self):
        super().prepare()
        self.node.plugins["node-agent"]["config"]["containerLogs"] = {"maxSize": "20k", "maxFiles": 4, "everySeconds": 0.2}

    def files_of(self, found):
        return sorted(glob.glob(os.path.join(self.node.log_folder(found, "one"), "*")), key=lambda path: (path.endswith("/0.log"), path))

    def lines_of(self, found):
        lines = []
        for path in self.files_of(found):
            with (gzip.open(path, "rt") if path.endswith(".gz") else open(path, encoding="utf-8")) as file:
                lines += [line.split(" ", 3)[3].strip() for line in file]
        return lines

    def stand_still(self, container):
        """Stops the process, so that all files can be read at leisure: the monitor has taken what was written and waits for more."""
        os.kill(container.pid, signal.SIGSTOP)
        wait_for("the process stands still", lambda: processes.stat_fields(container.pid)[0] == "T")
        wait_for("the monitor has taken its output", lambda: processes.unread_output(container.pid) == 0)
        wait_for("the monitor waits", lambda: processes.stat_fields(processes.stat_fields(container.pid)[1])[0] == "S")

    def test_long_logs_are_rotated(self):
        quiet, _ = self.run_pod(pod("quiet", shell("one", "echo little; exec sleep 1000")))
        # About 60 bytes a line.
        found, container = self.run_pod(pod("loud", pods.container("one", "ticks", 1)))

        def rotated(count):
            return lambda: len(self.files_of(found)) >= count and self.files_of(found)
        wait_for("two older logs", rotated(3), 20)
        self.assertEqual(self.lines_of(quiet), ["little"])
        self.assertEqual(len(self.files_of(quiet)), 1)
        self.stand_still(container)
        wait_for("older ones are compressed", lambda: any(path.endswith(".gz") for path in self.files_of(found)), 10)
        lines = self.lines_of(found)
        first = int(lines[0].split()[1])  # the oldest file may have gone already
        self.assertGreater(len(lines), 500)
        self.assertEqual(lines, [f"tick {number}" for number in range(first, first + len(lines))], "a line is lost or doubled")
        self.assertEqual(self.node.pintle("pod", "logs", "loud").splitlines(), lines, "rotated and compressed files are read too")
        self.assertEqual(self.node.pintle("pod", "logs", "loud", "--tail", str(len(lines) - 3)).splitlines(), lines[3:])
        os.kill(container.pid, signal.SIGCONT)
        newest = lambda: self.files_of(found)[:-1]
        first = newest()[0]
        wait_for("the oldest goes", lambda: first not in newest(), 30)
        self.assertLessEqual(len(self.files_of(found)), 4)
        self.assertTrue(self.node.pods()["loud"].is_running())
        self.assertEqual(self.node.pods()["loud"].restarts, 0)
        self.assertIn("does not match", self.broken_config())

    def test_followed_logs_go_on_over_rotations(self):
        found, _ = self.run_pod(pod("loud", pods.container("one", "ticks", 1)))
        following = subprocess.Popen([self.node.program("pintle"), "--socket", self.node.admin.path, "pod", "logs", "-f", "loud"],
                                     stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        with following:
            oldest = lambda: self.files_of(found)[:-1]
            wait_for("three rotations", lambda: len(oldest()) >= 3, 30)
            first = oldest()[0]
            wait_for("the oldest goes", lambda: first not in oldest(), 30)
            self.node.take("loud")
            lines = following.stdout.read().splitlines()
        self.assertGreater(len(lines), 1000)
        self.assertEqual(lines, [f"tick {number}" for number in range(len(lines))], "a line is lost or doubled")

    def test_a_rotation_that_was_cut_is_finished(self):
        """Killed between the renaming and telling the runtime: the log has no name, and its monitor writes on into the renamed one."""
        found, _ = self.run_pod(pods.ticking("cut"))
        reader = pods.LogReader(self.node.log_folder(found, "one"))
        wait_for("some lines", lambda: reader.catch_up() > 10, 20)
        self.node.kill()
        path = os.path.join(self.node.log_folder(found, "one"), "0.log")
        os.rename(path, path + ".20260101-000000-000")
        self.node.start()
        wait_for("the log has its name again", lambda: os.path.exists(path), 20)
        lines = reader.catch_up()
        wait_for("it is written to", lambda: reader.catch_up() > lines + 10 and os.path.getsize(path) > 0, 20)
        self.assertEqual(reader.problems, [])

    def test_an_older_log_that_cannot_be_compressed_or_removed_does_not_stop_rotation(self):
        found, _ = self.run_pod(pod("loud", pods.container("one", "ticks", 1)))
        os.mkdir(os.path.join(self.node.log_folder(found, "one"), "0.log.20200101-000000-000"))
        newest = lambda: [path for path in self.files_of(found)[:-1] if "20200101" not in path]
        wait_for("a rotation", newest, 20)
        first = newest()[0]
        wait_for("the oldest that can go goes", lambda: first not in newest() and first + ".gz" not in newest(), 30)
        self.assertLessEqual(len(newest()), 3)

    def test_a_log_that_cannot_be_made_costs_neither_monitor_nor_lines(self):
        found, _ = self.run_pod(pods.ticking("walled"))
        before = {one.identity() for one in self.containers_of(found)}
        reader = pods.LogReader(self.node.log_folder(found, "one"))
        path = os.path.join(self.node.log_folder(found, "one"), "0.log")
        os.mkdir(path + ".tmp")  # no file takes the place of a folder
        wait_for("the log grows beyond its limit", lambda: reader.catch_up() and os.path.exists(path) and os.path.getsize(path) > 25000, 30)
        self.assertEqual({one.identity() for one in self.containers_of(found)}, before)
        os.rmdir(path + ".tmp")
        wait_for("it is rotated", lambda: reader.catch_up() and len(self.files_of(found)) > 1, 20)
        self.assertEqual({one.identity() for one in self.containers_of(found)}, before)
        self.assertEqual(reader.problems, [])

    def broken_config(self):
        plugins = {**self.node.plugins, "node-agent": {"config": {**self.node.plugins["node-agent"]["config"], "containerLogs": {"maxSize": "lots"}}}}
        before = self.node.plugins
        try:
            self.node.apply(plugins)
        except Exception as error:  # what the daemon answers
            return str(error)
        finally:
            self.node.plugins = before
            self.node.write_profile()
        return "it was taken"


if __name__ == "__main__":
    contained.main()
