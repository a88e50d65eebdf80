"""Volumes of pods: in memory and on disk, made of the pod's own fields, parts of volumes, mounts that spread and mounts that do not."""

import os
import socket
import subprocess

import contained
from node import wait_for
from pod_case import PodCase, inside, mounts_of, pod, shell

SLEEP = "exec sleep 1000"


def mounted(volume, path, **fields):
    return {"name": volume, "mountPath": path, **fields}


class Volumes(PodCase):
    def test_memory_is_limited_survives_the_daemon_and_goes_with_the_pod(self):
        one = shell("one", "echo kept > /m/file; cat /dev/zero > /m/large; echo full; " + SLEEP,
                    volumeMounts=[mounted("m", "/m")])
        found, container = self.run_pod(pod("memory", one, volumes=[{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "3Mi"}}]))
        lines = self.wait_for_lines(found, 2)
        self.assertIn("No space left", lines[0])
        line = mounts_of(container.pid)["/m"]
        self.assertIn(" - tmpfs ", line)
        self.assertIn("size=3072k", line)
        self.assertLessEqual(os.stat(f"/proc/{container.pid}/root/m/large").st_size, 3 << 20)
        places = [place for place in mounts_of() if place.endswith("/volumes/m")]
        self.assertEqual(len(places), 1)

        self.node.kill()
        self.node.start()
        self.node.wait_for_pods(1)
        self.assertEqual(inside(container.pid, "cat", "/m/file"), "kept\n")
        self.assertEqual([place for place in mounts_of() if place.endswith("/volumes/m")], places)
        os.kill(container.pid, 9)  # its successor finds the same volume

        def again():
            pods_now = self.node.pods()["memory"]
            new = self.containers_of(pods_now)
            return new[0] if pods_now.is_running() and pods_now.restarts == 1 and new else None
        container = wait_for("the container runs again", again, 40)
        self.assertEqual(inside(container.pid, "cat", "/m/file"), "kept\n")
        self.node.take("memory")
        self.node.wait_for_none()
        self.assertEqual([place for place in mounts_of() if "/volumes/" in place], [])
        self.assertFalse(os.path.exists(places[0]))

    def test_fields_of_the_pod_are_files(self):
        items = [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
                 {"path": "deep/labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                 {"path": "color", "fieldRef": {"fieldPath": "metadata.annotations['color']"}, "mode": 0o400},
                 {"path": "cpu", "resourceFieldRef": {"containerName": "one", "resource": "limits.cpu", "divisor": "1m"}},
                 {"path": "memory", "resourceFieldRef": {"containerName": "one", "resource": "requests.memory", "divisor": "1Mi"}}]
        one = shell("one", f"echo $CPU $MEM $OWN; {SLEEP}", volumeMounts=[mounted("down", "/down"), mounted("all", "/all")],
                    resources={"limits": {"cpu": "250m", "memory": "64Mi"}}, env=[
                        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
                        {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
                        {"name": "OWN", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "containerName": "two"}}}])
        manifest = pod("fields", one, shell("two", SLEEP), metadata={"labels": {"b": "2", "a": "1"}, "annotations": {"color": "green"}}, volumes=[
            {"name": "down", "downwardAPI": {"items": items}},
            {"name": "all", "projected": {"defaultMode": 0o440, "sources": [
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
                {"downwardAPI": {"items": [{"path": "uid", "fieldRef": {"fieldPath": "metadata.uid"}}]}}]}}])
        found, _ = self.run_pod(manifest)
        container = next(one for one in self.containers_of(found) if "/down" in mounts_of(one.pid))
        read = lambda path: inside(container.pid, "cat", path)
        self.assertEqual(read("/down/name"), "fields")
        self.assertEqual(read("/down/deep/labels"), 'a="1"\nb="2"')
        self.assertEqual(read("/down/color"), "green")
        self.assertEqual(read("/down/cpu"), "250")
        self.assertEqual(read("/down/memory"), "64")
        self.assertEqual(read("/all/namespace"), "default")
        self.assertEqual(read("/all/uid"), found.uid)
        self.assertEqual(self.wait_for_lines(found, 1), [f"250 {64 << 20} {os.cpu_count()}"])
        # As kubelet lays them out: a link to the current set of files, so that all of them change at once.
        self.assertEqual(inside(container.pid, "readlink", "/down/name").strip(), "..data/name")
        self.assertTrue(inside(container.pid, "readlink", "/down/..data").startswith(".."))
        self.assertEqual(inside(container.pid, "stat", "-L", "-c", "%a", "/down/color").strip(), "400")
        self.assertEqual(inside(container.pid, "stat", "-L", "-c", "%a", "/all/uid").strip(), "440")
        self.assertIn("Read-only file system", inside(container.pid, "touch", "/down/more"))

    def test_parts_of_volumes(self):
        outside = os.path.join(contained.root(), "outside")
        os.makedirs(outside)
        one = shell("one", "echo deep > /deep/file; echo named > /named/file; ln -s / /whole/away; ln -s sub/deep /whole/within; "
                    "ln -s ../../../../../../.. /whole/up; echo ready; " + SLEEP,
                    env=[{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}], volumeMounts=[
                        mounted("data", "/whole"), mounted("data", "/deep", subPath="sub/deep"),
                        mounted("data", "/named", subPathExpr="of-$(WHO)"), mounted("host", "/single", subPath="single", readOnly=True)])
        host = os.path.join(contained.root(), "host-part")
        os.makedirs(host)
        with open(os.path.join(host, "single"), "w", encoding="utf-8") as file:
            file.write("only this\n")
        found, container = self.run_pod(pod("parts", one, volumes=[{"name": "data", "emptyDir": {}},
                                                                   {"name": "host", "hostPath": {"path": host}}]))
        self.wait_for_lines(found, 1)
        self.assertEqual(inside(container.pid, "cat", "/whole/sub/deep/file"), "deep\n")
        self.assertEqual(inside(container.pid, "cat", "/whole/of-parts/file"), "named\n")
        self.assertEqual(inside(container.pid, "cat", "/single"), "only this\n")
        self.assertEqual(inside(container.pid, "ls", "/named").split(), ["file"])

    def test_links_do_not_lead_out_of_a_volume(self):
        host = os.path.join(contained.root(), "trap")
        os.makedirs(os.path.join(host, "real"))
        os.symlink("/etc", os.path.join(host, "absolute"))
        os.symlink("../../../../../../../../etc", os.path.join(host, "up"))
        os.symlink("real", os.path.join(host, "within"))
        volumes = [{"name": "host", "hostPath": {"path": host}}]
        for name, path in (("absolute", "absolute"), ("up", "up"), ("below", "up/more")):
            self.node.drop(pod(name, shell("one", "ls /part; " + SLEEP, volumeMounts=[mounted("host", "/part", subPath=path)]), volumes=volumes))
        found, _ = self.run_pod(pod("within", shell("one", "echo hello > /part/file; echo done; " + SLEEP,
                                                    volumeMounts=[mounted("host", "/part", subPath="within")]), volumes=volumes))
        self.wait_for_lines(found, 1)
        self.assertTrue(os.path.exists(os.path.join(host, "real/file")))
        for name in ("absolute", "up", "below"):
            refused = self.wait_for_message(name, "leads out of the volume")
            self.assertEqual(self.containers_of(refused), [])
        self.assertIn("must not contain \"..\"", self.refused(pod("dots", shell("one", SLEEP, volumeMounts=[
            mounted("host", "/part", subPath="a/../..")]), volumes=volumes)))

    def test_types_of_host_paths(self):
        root = os.path.join(contained.root(), "types")
        os.makedirs(os.path.join(root, "folder"))
        with open(os.path.join(root, "file"), "w", encoding="utf-8") as file:
            file.write("content\n")
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(os.path.join(root, "socket"))
        right = {"Directory": "folder", "File": "file", "Socket": "socket", "CharDevice": "/dev/null",
                 "DirectoryOrCreate": "made/deep", "FileOrCreate": "new-file", "": "made-too"}
        volumes, mounts = [], []
        for number, (kind, path) in enumerate(right.items()):
            volumes.append({"name": f"v{number}", "hostPath": {"path": os.path.join(root, path), "type": kind}})
            mounts.append(mounted(f"v{number}", f"/v{number}"))
        # A folder that is made is there before the runtime, which makes missing ones too, looks for its parts.
        volumes.append({"name": "parts", "hostPath": {"path": os.path.join(root, "parts"), "type": "DirectoryOrCreate"}})
        mounts.append(mounted("parts", "/parts", subPath="part"))
        _, container = self.run_pod(pod("right", shell("one", SLEEP, volumeMounts=mounts), volumes=volumes))
        self.assertEqual(inside(container.pid, "cat", "/v1"), "content\n")
        self.assertTrue(os.path.isdir(os.path.join(root, "made/deep")))
        self.assertTrue(os.path.isfile(os.path.join(root, "new-file")))
        self.assertTrue(os.path.isdir(os.path.join(root, "made-too")))
        self.assertTrue(os.path.isdir(os.path.join(root, "parts/part")))
        for kind, path, why in (("Directory", "file", "is no directory"), ("File", "folder", "is no regular file"),
                                ("Socket", "file", "is no socket"), ("CharDevice", "file", "is no character device"),
                                ("BlockDevice", "/dev/null", "is no block device"), ("File", "nowhere", "does not exist")):
            name = f"wrong-{kind.lower()}-{why.split()[-1]}"
            self.node.drop(pod(name, shell("one", SLEEP, volumeMounts=[mounted("v", "/v")]),
                               volumes=[{"name": "v", "hostPath": {"path": os.path.join(root, path), "type": kind}}]))
            self.wait_for_message(name, why)

    def test_mounts_spread_as_asked(self):
        host = os.path.join(contained.root(), "spread")
        os.makedirs(os.path.join(host, "later"))
        volumes = [{"name": "host", "hostPath": {"path": host}}]
        containers = {}
        for name, mode, privileged in (("alone", "None", False), ("slave", "HostToContainer", False), ("peer", "Bidirectional", True)):
            _, containers[name] = self.run_pod(pod(name, shell("one", SLEEP, securityContext={"privileged": privileged}, volumeMounts=[
                mounted("host", "/host", mountPropagation=mode)]), volumes=volumes))
        subprocess.run(["mount", "-t", "tmpfs", "late", os.path.join(host, "later")], check=True)
        self.assertNotIn("/host/later", mounts_of(containers["alone"].pid))
        self.assertIn("/host/later", mounts_of(containers["slave"].pid))
        self.assertIn("/host/later", mounts_of(containers["peer"].pid))
        os.makedirs(os.path.join(host, "from-within"))
        self.assertEqual(inside(containers["peer"].pid, "mount", "-t", "tmpfs", "own", "/host/from-within"), "")
        self.assertIn(os.path.join(host, "from-within"), mounts_of())
        self.assertIn("/host/from-within", mounts_of(containers["slave"].pid))
        for folder in ("from-within", "later"):
            subprocess.run(["umount", os.path.join(host, folder)], check=True)
        self.assertIn("needs a privileged container", self.refused(pod("both", shell("one", SLEEP, volumeMounts=[
            mounted("host", "/host", mountPropagation="Bidirectional")]), volumes=volumes)))

    def test_read_only_all_the_way_down(self):
        host = os.path.join(contained.root(), "layers")
        os.makedirs(os.path.join(host, "below"))
        subprocess.run(["mount", "-t", "tmpfs", "below", os.path.join(host, "below")], check=True)
        volumes = [{"name": "host", "hostPath": {"path": host}}]
        _, plain = self.run_pod(pod("plain", shell("one", SLEEP, volumeMounts=[mounted("host", "/h", readOnly=True)]), volumes=volumes))
        _, deep = self.run_pod(pod("deep", shell("one", SLEEP, volumeMounts=[
            mounted("host", "/h", readOnly=True, recursiveReadOnly="Enabled")]), volumes=volumes))
        self.assertIn("Read-only file system", inside(plain.pid, "touch", "/h/x"))
        self.assertEqual(inside(plain.pid, "touch", "/h/below/x"), "")
        self.assertIn("Read-only file system", inside(deep.pid, "touch", "/h/x"))
        self.assertIn("Read-only file system", inside(deep.pid, "touch", "/h/below/y"))
        subprocess.run(["umount", "-l", os.path.join(host, "below")], check=True)
        self.assertIn("needs readOnly", self.refused(pod("not", shell("one", SLEEP, volumeMounts=[
            mounted("host", "/h", recursiveReadOnly="Enabled")]), volumes=volumes)))

    def test_groups_own_volumes(self):
        one = shell("one", "echo x > /d/file; (echo y > /m/file); cat /f/name; stat -c %g /d/file; " + SLEEP,
                    securityContext={"runAsUser": 1000, "runAsGroup": 1000},
                    volumeMounts=[mounted("d", "/d"), mounted("m", "/m"), mounted("f", "/f")])
        found, container = self.run_pod(pod("groups", one, securityContext={"fsGroup": 4321}, volumes=[
            {"name": "d", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory"}},
            {"name": "f", "downwardAPI": {"defaultMode": 0o400, "items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]))
        # Only the group makes a file of mode 0400 readable for this user.
        self.assertIn("groups", self.wait_for_lines(found, 1)[0])
        self.assertEqual(inside(container.pid, "stat", "-c", "%g %A", "/d").split(), ["4321", "drwxrwsrwx"])
        self.assertEqual(inside(container.pid, "stat", "-c", "%g", "/d/file").strip(), "4321")
        self.assertEqual(inside(container.pid, "stat", "-c", "%g", "/m/file").strip(), "4321")
        self.assertEqual(inside(container.pid, "stat", "-L", "-c", "%g %a", "/f/name").split(), ["4321", "440"])


if __name__ == "__main__":
    contained.main()
