"""Huge pages: what the node has of them, who gets them, and that nobody gets more."""

import json
import unittest

import contained
from node import wait_for
from pod_case import PodCase, pod, shell

PAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
SLEEP = "exec sleep 1000"


def pages(count=None):
    """How many the machine has; with a count, after that was asked for."""
    if count is not None:
        with open(PAGES, "w", encoding="ascii") as file:
            file.write(str(count))
    with open(PAGES, encoding="ascii") as file:
        return int(file.read())


def limits(huge, **others):
    return {"resources": {"limits": {"hugepages-2Mi": huge, **others}}}


class HugePages(PodCase):
    def prepare(self):
        super().prepare()
        before = pages()
        self.addCleanup(pages, before)
        if pages(before + 4) != before + 4:
            raise unittest.SkipTest("this machine has no memory for four more huge pages")
        self.total = before + 4

    def test_pods_get_the_pages_that_they_ask_for(self):
        node = json.loads(self.node.pintle("status", "-o", "json"))["kubernetes"]["status"]
        self.assertEqual(node["capacity"]["hugepages-2Mi"], f"{2 * self.total}Mi")
        self.assertEqual(node["allocatable"]["hugepages-2Mi"], f"{2 * self.total}Mi")
        script = ("grep -o ' /huge hugetlbfs' /proc/mounts; fallocate -l 4194304 /huge/a && echo fits; rm /huge/a; "
                  "fallocate -l 6291456 /huge/b || echo too much; " + SLEEP)
        user = shell("one", script.replace("grep", "/bin/busybox grep").replace("fallocate", "/bin/busybox fallocate").replace("rm ", "/bin/busybox rm "),
                     volumeMounts=[{"name": "huge", "mountPath": "/huge"}], **limits("4Mi", memory="64Mi"))
        # The pod's cgroup has room for three pages; two of them are the user's.
        other = shell("other", SLEEP, **limits("2Mi", memory="64Mi"))
        found, _ = self.run_pod(pod("user", user, other, volumes=[{"name": "huge", "emptyDir": {"medium": "HugePages"}}]))
        lines = [line for line in self.wait_for_lines(found, 4) if line.startswith((" /huge", "fits", "too"))]
        self.assertEqual(lines, [" /huge hugetlbfs", "fits", "too much"])
        self.node.drop(pod("greedy", shell("one", SLEEP, **limits(f"{2 * self.total}Mi", memory="64Mi"))))
        refused = self.wait_for_message("greedy", "OutOfhugepages-2Mi")
        self.assertIn("Node didn't have enough resource: hugepages-2Mi", refused.message)
        self.node.take("user")
        wait_for("there is room now", lambda: self.node.pods().get("greedy") and self.node.pods()["greedy"].is_running(), 30)

    def test_containers_share_what_their_pod_has_as_a_whole(self):
        mounted = {"volumeMounts": [{"name": "huge", "mountPath": "/huge"}]}
        first = shell("first", "/bin/busybox fallocate -l 4194304 /huge/a && echo fits; " + SLEEP, **mounted)
        second = shell("second", "until [ $(/bin/busybox stat -c %s /huge/a || echo 0) = 4194304 ]; do /bin/busybox usleep 10000; done; "
                                 "/bin/busybox fallocate -l 2097152 /huge/b || echo too much; " + SLEEP, **mounted)
        both = pod("both", first, second, volumes=[{"name": "huge", "emptyDir": {"medium": "HugePages"}}],
                   resources={"limits": {"hugepages-2Mi": "4Mi", "memory": "64Mi"}})
        found, _ = self.run_pod(both)
        for name, last in (("first", "fits"), ("second", "too much")):
            wait_for(f"{name} says {last}", lambda: last in self.log_lines(found, container=name), 20)
        whole = pod("whole", shell("one", SLEEP), resources={"limits": {"hugepages-2Mi": f"{2 * self.total}Mi", "memory": "64Mi"}})
        self.node.drop(whole)
        self.wait_for_message("whole", "OutOfhugepages-2Mi")
        greedy = pod("greedy", shell("one", SLEEP, **limits("4Mi", memory="64Mi")), shell("two", SLEEP, **limits("4Mi", memory="64Mi")),
                     resources={"limits": {"hugepages-2Mi": "6Mi", "memory": "128Mi"}})
        self.assertIn("must be at least what its containers may use together, 8Mi", self.refused(greedy))

    def test_what_cannot_be_is_refused(self):
        for text, container, volumes in (
                ("need a request or limit of cpu or memory", shell("one", SLEEP, **limits("4Mi")), ()),
                ("must be so many pages of 2Mi, is 3Mi", shell("one", SLEEP, **limits("3Mi", memory="64Mi")), ()),
                ("must be equal to the limit 4Mi, is 2Mi", shell("one", SLEEP, resources={
                    "requests": {"hugepages-2Mi": "2Mi"}, "limits": {"hugepages-2Mi": "4Mi", "memory": "64Mi"}}), ()),
                ("neither the pod nor a container has a limit of hugepages-1Gi", shell("one", SLEEP, **limits("4Mi", memory="64Mi")),
                 [{"name": "huge", "emptyDir": {"medium": "HugePages-1Gi"}}])):
            self.assertIn(text, self.refused(pod("wrong", container, volumes=volumes)))


if __name__ == "__main__":
    contained.main()
