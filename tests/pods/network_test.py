"""The bridge network's settings as pods see them: MTU, hairpin, and several ranges of one family."""

import subprocess

import contained
import wire
from node import NETWORK
from pod_case import PodCase, inside, pod, shell

HOST_INTERFACE = 8  # of an Attachment
SLEEP = "exec sleep 1000"


def link(name):
    """What the node knows of one of its links."""
    return subprocess.run(["ip", "-d", "link", "show", "dev", name], capture_output=True, text=True, check=True).stdout


class Settings(PodCase):
    def prepare(self):
        super().prepare()
        self.node.plugins["network-bridge"]["config"].update(
            {"podCIDR": ["10.213.8.0/30", "10.213.9.0/24", "fd00:213:8::/126", "fd00:213:9::/64"], "mtu": 1400, "hairpin": True})

    def link_of(self, found):
        """The node's end of the pod's link."""
        for key in self.node.providers(NETWORK):
            for attachment in wire.messages(self.node.admin.call(NETWORK, 5, provider=key), 1):
                if wire.text(attachment, 1) == found.sandbox:
                    return link(wire.text(attachment, HOST_INTERFACE))
        return self.fail(f"{found} is not attached")

    def test_a_second_range_is_used_when_the_first_is_full(self):
        first, one = self.run_pod(pod("first", shell("one", SLEEP)))
        second, other = self.run_pod(pod("second", shell("one", SLEEP)))
        self.assertEqual(first.addresses, ["10.213.8.2", "fd00:213:8::2"])
        third, _ = self.run_pod(pod("third", shell("one", SLEEP)))
        # The first range of IPv4 has room for one pod, that of IPv6 for two.
        self.assertEqual(second.addresses, ["10.213.9.2", "fd00:213:8::3"])
        self.assertEqual(third.addresses, ["10.213.9.3", "fd00:213:9::2"])
        for pid, to in ((one.pid, second), (one.pid, third), (other.pid, first), (other.pid, third)):
            for address in to.addresses:
                self.assertIn(" 0% packet loss", inside(pid, "ping", "-c", "1", "-W", "5", address))

    def test_the_mtu_is_that_of_the_config(self):
        found, container = self.run_pod(pod("sized", shell("one", SLEEP)))
        self.assertIn("mtu 1400", inside(container.pid, "ip", "link", "show", "eth0"))
        self.assertIn("mtu 1400", link("pintle-test"))
        self.assertIn("mtu 1400", self.link_of(found))

    def test_hairpin_is_that_of_the_config(self):
        found, _ = self.run_pod(pod("mirror", shell("one", SLEEP)))
        self.assertIn("hairpin on", self.link_of(found))
        self.node.plugins["network-bridge"]["config"]["hairpin"] = False
        self.node.apply()
        found, _ = self.run_pod(pod("plain", shell("one", SLEEP)))
        self.assertIn("hairpin off", self.link_of(found))


if __name__ == "__main__":
    contained.main()
