"""The harness itself: it must see what is left behind, and leave nothing itself."""

import os
import subprocess
import unittest

import contained
import machine
import pods
import processes
import wire


class Contained(unittest.TestCase):
    def test_is_alone_with_what_it_started(self):
        others = [command for pid, command in processes.alive().items() if pid not in (1, os.getpid())]
        self.assertEqual(others, [])

    def test_sees_each_kind_of_leftover(self):
        before = machine.Machine()
        child = subprocess.Popen(["sleep", "60"])
        target = os.path.join(contained.root(), "mounted")
        os.mkdir(target)
        group = next(name for name in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup") if os.path.isdir(name)) + f"/pintle-test-{os.getpid()}"
        os.mkdir(group)
        subprocess.run(["mount", "-t", "tmpfs", "none", target], check=True)
        subprocess.run(["ip", "link", "add", "left0", "type", "bridge"], check=True)
        subprocess.run(["ip", "address", "add", "10.214.0.1/24", "dev", "left0"], check=True)
        subprocess.run(["nft", "add", "table", "inet", "left"], check=True)
        with open("/proc/sys/net/ipv4/ip_forward", "r+", encoding="ascii") as file:
            former = file.read().strip()
            file.write("0" if former == "1" else "1")
        found = machine.Machine().difference(before)
        for kind in ("process", "mount", "link", "address", "nftables", "cgroup", "sysctl"):
            self.assertTrue(any(line.startswith(kind + " left behind") for line in found), f"{kind} is not seen in {found}")
        child.kill()
        child.wait()
        os.rmdir(group)
        subprocess.run(["umount", target], check=True)
        subprocess.run(["ip", "link", "delete", "left0"], check=True)
        subprocess.run(["nft", "delete", "table", "inet", "left"], check=True)
        with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as file:
            file.write(former)
        self.assertEqual(machine.leftovers(before), [])

    def test_a_killed_orphan_is_reaped(self):
        shell = subprocess.run(["sh", "-c", "sleep 60 >/dev/null & echo $!"], stdout=subprocess.PIPE, text=True, check=True)
        orphan = int(shell.stdout)
        processes.kill_and_wait(orphan)
        self.assertNotIn(orphan, processes.alive())


class LogReading(unittest.TestCase):
    def reader(self, *lines):
        folder = os.path.join(contained.root(), self._testMethodName)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "0.log"), "a", encoding="utf-8") as file:
            file.write("".join(f"2026-01-01T00:00:00.000000000Z stdout {line}\n" for line in lines))
        return pods.LogReader(folder)

    def test_joins_parts(self):
        reader = self.reader("F tick 0", "P ti", "F ck 1")
        self.assertEqual(reader.catch_up(), 2)
        self.assertEqual(reader.problems, [])

    def test_sees_a_lost_line(self):
        reader = self.reader("F tick 0", "F tick 2")
        reader.catch_up()
        self.assertIn("lost", reader.problems[0])

    def test_sees_a_doubled_line(self):
        reader = self.reader("F tick 0", "F tick 0")
        reader.catch_up()
        self.assertIn("doubled", reader.problems[0])

    def test_follows_a_rotated_log(self):
        reader = self.reader("F tick 0", "F tick 1")
        self.assertEqual(reader.catch_up(), 2)
        current = os.path.join(reader.folder, "0.log")
        with open(current, "a", encoding="utf-8") as file:
            file.write("2026-01-01T00:00:00.000000000Z stdout F tick 2\n")
        os.rename(current, current + ".20261120-143000-042")
        self.reader("F tick 3")
        self.assertEqual(reader.catch_up(), 4)
        self.assertEqual(reader.problems, [])


class Wire(unittest.TestCase):
    def test_decodes_what_it_encodes(self):
        message = wire.decode(wire.encode({1: 300, 2: "text", 3: [{1: -1}, {1: 2}]}))
        self.assertEqual((wire.integer(message, 1), wire.text(message, 2)), (300, "text"))
        self.assertEqual([wire.integer(inner, 1) for inner in wire.messages(message, 3)], [-1, 2])


if __name__ == "__main__":
    contained.main()
