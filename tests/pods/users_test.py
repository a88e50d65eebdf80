"""Pods with users of their own (hostUsers: false): who their processes are for the node, whose their files are, and what they may see."""

import os
import subprocess

import contained
import wire
from node import wait_for
from pod_case import PodCase, inside, mounts_of, pod, shell, status_of

STATUS = 24  # RuntimeService
SLEEP = "exec sleep 1000"


def mapped(name, *containers, **spec):
    return pod(name, *containers, hostUsers=False, **spec)


def first_id(pid):
    with open(f"/proc/{pid}/uid_map", encoding="utf-8") as file:
        inside_id, first, count = file.read().split()
    assert (inside_id, count) == ("0", "65536"), (inside_id, first, count)
    return int(first)


def as_root_of(pid, *command):
    """What a command of busybox writes as root of the pod."""
    done = subprocess.run(["nsenter", "-t", str(pid), "-U", "-m", "-u", "-i", "-n", "-p", "-S", "0", "-G", "0", "/bin/busybox", *command],
                          capture_output=True, text=True, check=False, timeout=20)
    return done.stdout + done.stderr


class Users(PodCase):
    def run_pod(self, manifest):
        """Until the programs run: before that, a container's process is still the OCI runtime's."""
        found, container = super().run_pod(manifest)

        def name_of(pid):
            with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                return file.read().strip()
        wait_for("the programs run", lambda: all(name_of(one.pid) == "sleep" for one in self.containers_of(found)))
        return found, container

    def test_root_of_a_pod_is_nobody_on_the_node(self):
        found, container = self.run_pod(mapped("own", shell("one", "touch /made /dev/shm/made; id -u; " + SLEEP)))
        first = first_id(container.pid)
        self.assertGreaterEqual(first, 65536)
        self.assertEqual(status_of(container.pid)["Uid"].split(), [str(first)] * 4)
        self.assertEqual(status_of(container.pid)["Gid"].split(), [str(first)] * 4)
        for kind in ("user", "net", "ipc", "uts", "pid", "mnt"):
            self.assertNotEqual(os.readlink(f"/proc/{container.pid}/ns/{kind}"), os.readlink(f"/proc/self/ns/{kind}"))
        self.assertEqual(self.wait_for_lines(found, 1), ["0"])
        # The image's files are root's for the pod, and what it makes is its own.
        listing = as_root_of(container.pid, "ls", "-ln", "/bin/workload", "/made", "/dev/shm/made", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname")
        self.assertEqual([line.split()[2:4] for line in listing.splitlines()], [["0", "0"]] * 6, listing)
        self.assertEqual(os.stat(f"/proc/{container.pid}/root/made").st_uid, first)
        told = self.node.pintle("pod", "exec", "own", "--", "/bin/busybox", "sh", "-c", "id -u; cat /proc/self/uid_map").split()
        self.assertEqual(told, ["0", "0", str(first), "65536"])
        # Its network is its own to change; the node's is not.
        self.assertEqual(as_root_of(container.pid, "ip", "link", "set", "lo", "mtu", "1400"), "")
        self.assertIn("not permitted", as_root_of(container.pid, "mknod", "/tmp/null", "c", "1", "3"))
        _, other = self.run_pod(mapped("other", shell("one", SLEEP)))
        self.assertGreaterEqual(abs(first_id(other.pid) - first), 65536)
        _, usual = self.run_pod(pod("usual", shell("one", SLEEP)))
        self.assertEqual(os.readlink(f"/proc/{usual.pid}/ns/user"), os.readlink("/proc/self/ns/user"))

    def test_an_other_user_of_the_pod(self):
        _, container = self.run_pod(mapped("app", shell("one", SLEEP, securityContext={"runAsUser": 1000, "runAsGroup": 3000}),
                                           securityContext={"supplementalGroups": [4000]}))
        first = first_id(container.pid)
        self.assertEqual(status_of(container.pid)["Uid"].split()[0], str(first + 1000))
        self.assertEqual(status_of(container.pid)["Gid"].split()[0], str(first + 3000))
        self.assertEqual(sorted(status_of(container.pid)["Groups"].split()), sorted([str(first + 3000), str(first + 4000)]))
        self.assertEqual(int(status_of(container.pid)["CapEff"], 16), 0)

    def test_volumes_keep_the_owners_that_their_files_have(self):
        host = os.path.join(self.node.root, "host")
        os.makedirs(host)
        for name, owner in (("roots", 0), ("users", 1000)):
            with open(os.path.join(host, name), "w", encoding="utf-8") as file:
                file.write(name)
            os.chown(os.path.join(host, name), owner, owner)
        volumes = [{"name": "host", "hostPath": {"path": host}}, {"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}},
                   {"name": "about", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]
        mounts = [{"name": volume["name"], "mountPath": "/" + volume["name"]} for volume in volumes] + [
            {"name": "disk", "mountPath": "/part", "subPath": "below"}, {"name": "host", "mountPath": "/closed", "readOnly": True}]
        script = ("for v in host disk memory part; do touch /$v/made || echo no $v; done; touch /closed/x 2>/dev/null && echo open; "
                  "echo $(cat /about/name); " + SLEEP)
        found, container = self.run_pod(mapped("stores", shell("one", script, volumeMounts=mounts), volumes=volumes))
        self.assertEqual(self.wait_for_lines(found, 1), ["stores"])
        # On the node they are root's: nothing was given away, and the same folder serves pods with and without users of their own.
        self.assertEqual([(os.stat(os.path.join(host, name)).st_uid) for name in ("roots", "users", "made")], [0, 1000, 0])
        self.assertEqual(os.stat(os.path.join(self.volume_folder(found, "disk"), "made")).st_uid, 0)
        self.assertEqual(os.stat(os.path.join(self.volume_folder(found, "disk"), "below/made")).st_uid, 0)
        self.assertEqual(os.stat(os.path.join(self.volume_folder(found, "memory"), "made")).st_uid, 0)
        listing = as_root_of(container.pid, "ls", "-ln", "/host")
        self.assertEqual({line.split()[-1]: line.split()[2] for line in listing.splitlines() if len(line.split()) > 3},
                         {"roots": "0", "users": "1000", "made": "0"}, listing)
        self.node.drop(mapped("ends", shell("one", "echo last words > /dev/termination-log"), restartPolicy="Never"))
        ended = wait_for("the pod has ended", lambda: (lambda one: one if one and one.phase == "Succeeded" else None)(self.node.pods().get("ends")))
        self.assertIn("last words", ended.json)

    def test_sysctls_and_shared_processes(self):
        _, container = self.run_pod(mapped("tuned", shell("one", SLEEP), shell("two", "exec sleep 4321"), shareProcessNamespace=True,
                                           securityContext={"sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "20000 21000"},
                                                                        {"name": "kernel.shm_rmid_forced", "value": "1"}]}))
        self.assertEqual(inside(container.pid, "cat", "/proc/sys/net/ipv4/ip_local_port_range").split(), ["20000", "21000"])
        self.assertEqual(inside(container.pid, "cat", "/proc/sys/kernel/shm_rmid_forced").strip(), "1")
        self.assertIn("sleep 4321", inside(container.pid, "ps", "-o", "args"))

    def test_ranges_outlive_the_daemon_and_are_free_after_their_pods(self):
        _, first = self.run_pod(mapped("first", shell("one", SLEEP)))
        before = first_id(first.pid)
        self.node.kill()
        self.node.start()
        _, second = self.run_pod(mapped("second", shell("one", SLEEP)))
        self.assertNotEqual(first_id(second.pid), before)
        self.assertEqual(first_id(first.pid), before)
        # The container's successor has its pod's users.
        os.kill(first.pid, 9)
        def again():
            running = [one for one in self.containers_of(self.node.pods()["first"]) if one.pid not in (0, first.pid)]
            return running and running[0]
        successor = wait_for("the container runs again", again)
        self.assertEqual(first_id(successor.pid), before)
        os.unlink(os.path.join(self.node.manifests, "first.json"))
        wait_for("the pod is gone", lambda: "first" not in self.node.pods())
        _, third = self.run_pod(mapped("third", shell("one", SLEEP)))
        self.assertEqual(first_id(third.pid), before, "a range that is free is used again")

    def test_proc_unmasked(self):
        bare = shell("bare", SLEEP, securityContext={"procMount": "Unmasked"})
        found, _ = self.run_pod(mapped("proc", bare, shell("covered", SLEEP)))
        covers = {}
        for one in self.containers_of(found):
            covers[len([place for place in mounts_of(one.pid) if place.startswith("/proc/")])] = one
        self.assertEqual(len(covers), 2, covers)
        self.assertIn(0, covers, "nothing is mounted over /proc")
        self.assertIn("needs hostUsers: false", self.refused(pod("bad", bare)))

    def test_what_cannot_be_combined(self):
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            self.assertIn(f"{field}: cannot be combined with hostUsers: false", self.refused(mapped("bad", shell("one", SLEEP), **{field: True})))

    def test_cri_tells_that_there_are_user_namespaces(self):
        handlers = wire.messages(self.node.admin.call("runtime.v1.RuntimeService", STATUS), 3)
        self.assertTrue(handlers)
        for handler in handlers:
            self.assertEqual(wire.integer(wire.messages(handler, 2)[0], 2), 1, handler)


if __name__ == "__main__":
    contained.main()
