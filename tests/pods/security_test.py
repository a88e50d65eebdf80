"""What a pod's security context and its names in the network are for its processes, and how what this node lacks is refused."""

import json
import os
import unittest

import contained
import pods
from node import wait_for
from pod_case import PodCase, inside, pod, shell, status_of

SLEEP = "exec sleep 1000"


class Security(PodCase):
    def prepare(self):
        super().prepare()
        self.profiles = os.path.join(self.node.root, "seccomp")
        os.makedirs(self.profiles)
        self.node.plugins["node-agent"]["config"]["seccompProfiles"] = self.profiles

    def test_containers_share_their_processes(self):
        found, _ = self.run_pod(pod("shared", shell("one", "exec sleep 4321"), shell("two", "sleep 1; ls /proc; echo end; " + SLEEP),
                                    shareProcessNamespace=True))
        containers = self.containers_of(found)
        spaces = {os.readlink(f"/proc/{one.pid}/ns/pid") for one in containers}
        self.assertEqual(len(spaces), 1)
        self.assertNotIn(os.readlink("/proc/self/ns/pid"), spaces)
        self.assertIn("sleep 4321", inside(containers[1].pid, "ps", "-o", "args"))
        self.assertNotEqual(status_of(containers[0].pid)["NSpid"].split()[-1], "1", "the pod has a first process of its own")
        [first] = [pid for pid in os.listdir("/proc") if pid.isdigit() and self.is_first_in(pid, spaces)]
        with open(f"/proc/{first}/cgroup", encoding="ascii") as file:
            self.assertIn(found.uid, file.read(), "the pod's limits and account hold for its first process too")
        own, container = self.run_pod(pod("own", shell("one", SLEEP)))
        self.assertEqual(status_of(container.pid)["NSpid"].split()[-1], "1")
        self.assertIn("cannot be combined with hostPID", self.refused(pod("both", shell("one", SLEEP), shareProcessNamespace=True, hostPID=True)))

    def is_first_in(self, pid, spaces):
        try:
            return os.readlink(f"/proc/{pid}/ns/pid") in spaces and status_of(pid)["NSpid"].split()[-1] == "1"
        except OSError:
            return False

    def test_names_of_hosts(self):
        aliases = [{"ip": "192.0.2.9", "hostnames": ["printer", "printer.office"]}, {"ip": "2001:db8::9", "hostnames": ["six"]}]
        found, container = self.run_pod(pod("named", shell("one", SLEEP), hostAliases=aliases, hostname="web", subdomain="shop"))
        lines = [line.split() for line in inside(container.pid, "cat", "/etc/hosts").splitlines()]
        self.assertIn(["127.0.0.1", "localhost"], lines)
        self.assertIn([found.addresses[0], "web.shop.default.svc.cluster.local", "web"], lines)
        self.assertIn(["192.0.2.9", "printer", "printer.office"], lines)
        self.assertIn(["2001:db8::9", "six"], lines)
        self.assertEqual(inside(container.pid, "hostname").strip(), "web")
        _, container = self.run_pod(pod("full", shell("one", SLEEP), hostname="web", subdomain="shop", setHostnameAsFQDN=True))
        self.assertEqual(inside(container.pid, "hostname").strip(), "web.shop.default.svc.cluster.local")
        _, container = self.run_pod(pod("nodes", shell("one", SLEEP), hostNetwork=True, hostAliases=aliases))
        self.assertIn("printer.office", inside(container.pid, "cat", "/etc/hosts"))
        with open("/etc/hosts", encoding="utf-8") as file:
            self.assertNotIn("printer.office", file.read())
        self.assertIn("hostAliases", self.refused(pod("bad", shell("one", SLEEP), hostAliases=[{"ip": "nowhere", "hostnames": ["x"]}])))
        self.assertIn("hostnames", self.refused(pod("bad", shell("one", SLEEP), hostAliases=[{"ip": "192.0.2.1", "hostnames": ["a\nb"]}])))

    def test_name_servers(self):
        _, container = self.run_pod(pod("dns", shell("one", SLEEP), dnsPolicy="None", dnsConfig={
            "nameservers": ["192.0.2.53"], "searches": ["example.com", "_under.example.com"], "options": [{"name": "ndots", "value": "3"}, {"name": "edns0"}]}))
        self.assertEqual(inside(container.pid, "cat", "/etc/resolv.conf").splitlines(),
                         ["search example.com _under.example.com", "nameserver 192.0.2.53", "options ndots:3 edns0"])

    def test_sysctls(self):
        _, container = self.run_pod(pod("tuned", shell("one", SLEEP), securityContext={"sysctls": [
            {"name": "net.ipv4.ip_local_port_range", "value": "20000 21000"}, {"name": "kernel.shm_rmid_forced", "value": "1"}]}))
        self.assertEqual(inside(container.pid, "cat", "/proc/sys/net/ipv4/ip_local_port_range").split(), ["20000", "21000"])
        self.assertEqual(inside(container.pid, "cat", "/proc/sys/kernel/shm_rmid_forced").strip(), "1")
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="utf-8") as file:
            self.assertNotEqual(file.read().split(), ["20000", "21000"])
        for sysctls, why in (([{"name": "vm.swappiness", "value": "1"}], "not one of those that are safe"),
                             ([{"name": "kernel.core_pattern", "value": "|/bin/sh"}], "characters that no sysctl takes"),
                             ([{"name": "net.ipv4.tcp_syncookies", "value": "1+kernel.core_pattern=|x"}], "characters that no sysctl takes"),
                             ([{"name": "net.ipv4/../../kernel", "value": "1"}], "must be the name of a sysctl")):
            self.assertIn(why, self.refused(pod("bad", shell("one", SLEEP), securityContext={"sysctls": sysctls})))
        self.assertIn("hostNetwork", self.refused(pod("bad", shell("one", SLEEP), hostNetwork=True, securityContext={
            "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]})))

    def image_with_people(self):
        """An image in which user 1000 is a member of group 7000."""
        files = {"bin/workload": os.path.join(self.node.build, "tests/harness/workload")}
        for name, content in (("passwd", "ada:x:1000:2000:Ada:/:/bin/sh\n"), ("group", "staff:x:7000:ada,bob\nothers:x:7001:bob\n")):
            files[f"etc/{name}"] = os.path.join(self.node.root, name)
            with open(files[f"etc/{name}"], "w", encoding="ascii") as file:
                file.write(content)
        self.node.pintle("image", "load", pods.archive_of("pintle.local/test/people:latest", files, ["/bin/workload", "sleep"]))
        return "pintle.local/test/people:latest"

    def test_supplementary_groups(self):
        image = self.image_with_people()
        for policy, of_image in (("Merge", ["7000"]), ("Strict", [])):
            context = {"supplementalGroups": [3000, 4000], "fsGroup": 5000, "supplementalGroupsPolicy": policy}
            one = {**pods.container("one", "sleep"), "image": image, "securityContext": {"runAsUser": 1000, "runAsGroup": 2000}}
            _, container = self.run_pod(pod(f"groups-{policy.lower()}", one, securityContext=context))
            wait_for("its own process runs", lambda: os.readlink(f"/proc/{container.pid}/exe") == "/bin/workload")
            self.assertEqual(sorted(status_of(container.pid)["Groups"].split()), ["2000", "3000", "4000", "5000", *of_image])
        self.assertIn("supplementalGroups", self.refused(pod("bad", shell("one", SLEEP), securityContext={"supplementalGroups": [-1]})))

    def test_seccomp_profiles_of_the_node(self):
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}
        for name, content in (("no-mkdir.json", json.dumps(profile)), ("broken.json", "{"), ("docker.json", '{"defaultAction": "SCMP_ACT_ALLOW", "archMap": []}')):
            with open(os.path.join(self.profiles, name), "w", encoding="utf-8") as file:
                file.write(content)
        localhost = lambda path: {"seccompProfile": {"type": "Localhost", "localhostProfile": path}}
        found, container = self.run_pod(pod("filtered", shell("one", "busybox mkdir /tmp/x; echo ended; " + SLEEP, securityContext=localhost("no-mkdir.json"))))
        self.assertIn("Function not implemented", "".join(self.wait_for_lines(found, 2)))
        self.assertEqual(status_of(container.pid)["Seccomp"], "2")
        found, container = self.run_pod(pod("plain", shell("one", "busybox mkdir /tmp/x && echo made; " + SLEEP)))
        self.assertEqual(self.wait_for_lines(found, 1), ["made"])
        self.assertEqual(status_of(container.pid)["Seccomp"], "2", "the node's own profile, unasked")
        for name, path, why in (("missing", "nowhere.json", "is not on this node"), ("broken", "broken.json", "is no JSON object"),
                                ("docker", "docker.json", "archMap")):
            self.node.drop(pod(name, shell("one", SLEEP, securityContext=localhost(path))))
            self.wait_for_message(name, why)
        self.assertIn("must not contain \"..\"", self.refused(pod("bad", shell("one", SLEEP, securityContext=localhost("../x.json")))))
        self.assertIn("is required", self.refused(pod("bad", shell("one", SLEEP, securityContext={"seccompProfile": {"type": "Localhost"}}))))

    @unittest.skipIf(os.path.exists("/sys/module/apparmor/parameters/enabled"), "this host has AppArmor")
    def test_apparmor_is_refused_where_there_is_none(self):
        why = "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host"
        for name, profile in (("local", {"type": "Localhost", "localhostProfile": "tight"}), ("default", {"type": "RuntimeDefault"})):
            self.node.drop(pod(name, shell("one", SLEEP, securityContext={"appArmorProfile": profile})))
            found = self.wait_for_message(name, why)
            status = json.loads(found.json)["status"]
            self.assertEqual((status["phase"], status["reason"], self.containers_of(found)), ("Failed", "AppArmor", []))
        annotated = pod("annotated", shell("one", SLEEP))
        annotated["metadata"]["annotations"] = {"container.apparmor.security.beta.kubernetes.io/one": "localhost/tight"}
        self.node.drop(annotated)
        self.wait_for_message("annotated", why)
        for_all = pod("for-all", shell("one", SLEEP), securityContext={"appArmorProfile": {"type": "RuntimeDefault"}})
        self.node.drop(for_all)
        self.wait_for_message("for-all", why)
        for_all["metadata"]["name"] = "not-for-this-one"
        for_all["spec"]["containers"][0]["securityContext"] = {"appArmorProfile": {"type": "Unconfined"}}
        _, container = self.run_pod(for_all)
        self.assertTrue(container.pid)

    @unittest.skipIf(os.path.exists("/sys/fs/selinux/enforce"), "this host has SELinux")
    def test_selinux_is_refused_where_there_is_none(self):
        self.node.drop(pod("labelled", shell("one", SLEEP, securityContext={"seLinuxOptions": {"level": "s0:c1,c2"}})))
        found = self.wait_for_message("labelled", "this node has no SELinux")
        self.assertEqual(self.containers_of(found), [])

    def test_privileges_and_the_root(self):
        tight = shell("one", SLEEP, securityContext={"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}})
        _, container = self.run_pod(pod("tight", tight))
        status = status_of(container.pid)
        self.assertEqual(int(status["CapEff"], 16), 1 << 10)
        self.assertEqual(status["NoNewPrivs"], "1")
        self.assertIn("Read-only file system", inside(container.pid, "touch", "/x"))
        _, container = self.run_pod(pod("loose", shell("one", SLEEP)))
        self.assertEqual(status_of(container.pid)["NoNewPrivs"], "0")
        self.assertEqual(inside(container.pid, "touch", "/x"), "")


if __name__ == "__main__":
    contained.main()
