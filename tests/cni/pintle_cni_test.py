"""pintle-cni as container engines use it: every command, every version, bad input, and kill -9 at any moment. No pintled."""

import json
import os
import random
import subprocess
import sys
import time
import unittest

import contained
import machine

PROGRAM = os.path.join(contained.build(), "bin/pintle-cni")
VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
PEERS = os.environ.get("PINTLE_PEERS") or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "pintle-peers")
CNITOOL = os.path.join(PEERS, "cnitool")


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class PintleCni(unittest.TestCase):
    def setUp(self):
        self.folder = os.path.join(contained.root(), self._testMethodName)
        self.data = os.path.join(self.folder, "data")
        os.makedirs(self.folder)
        self.spaces = []
        subprocess.run(["ip", "netns", "add", "first"], check=True)  # mounts /run/netns for good
        subprocess.run(["ip", "netns", "delete", "first"], check=True)
        self.before = machine.Machine()

    def tearDown(self):
        for name in self.spaces:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def space(self, name):
        subprocess.run(["ip", "netns", "add", name], check=True)
        self.spaces.append(name)
        return f"/run/netns/{name}"

    def config(self, version="1.1.0", **fields):
        return {"cniVersion": version, "name": "pods", "type": "pintle-cni", "bridge": "cni-test", "dataDir": self.data,
                "podCIDR": ["10.217.0.0/24", "fd00:217::/64"], **fields}

    def start(self, command, config, container="", space="", interface="eth0", arguments=""):
        environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": space, "CNI_IFNAME": interface,
                       "CNI_ARGS": arguments, "CNI_PATH": "/nowhere"}
        process = subprocess.Popen([PROGRAM], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   text=True)
        process.stdin.write(config if isinstance(config, str) else json.dumps(config))
        process.stdin.close()
        return process

    def call(self, *arguments, **options):
        """The exit code, and what was printed."""
        process = self.start(*arguments, **options)
        text = process.stdout.read()
        process.stdout.close()
        return process.wait(60), json.loads(text) if text else None

    def do(self, *arguments, **options):
        code, answer = self.call(*arguments, **options)
        self.assertEqual(code, 0, answer)
        return answer

    def refusal(self, *arguments, **options):
        code, answer = self.call(*arguments, **options)
        self.assertNotEqual(code, 0)
        self.assertNotIn("\n", answer["msg"])
        return answer["code"], answer["msg"]

    def assert_nothing_left(self):
        for name in self.spaces:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        self.spaces = []
        self.assertEqual(machine.leftovers(self.before), [])
        self.assertEqual(self.held(), set())

    def held(self):
        """Addresses that the pool has given out, by its files."""
        folder, held = os.path.join(self.data, "shared/network-bridge/addresses"), set()
        for name in os.listdir(folder) if os.path.exists(folder) else []:
            with open(os.path.join(folder, name), encoding="ascii") as file:
                for line in file.read().splitlines()[1:]:
                    sign, address = line.split()[:2]
                    if sign == "+":
                        held.add(address)
                    elif sign == "-":
                        held.discard(address)
        return held

    def test_every_version_of_the_specification(self):
        for number, version in enumerate(VERSIONS):
            space = self.space(f"cni-v{number}")
            config = self.config(version)
            result = self.do("ADD", config, f"c{number}", space, arguments="IgnoreUnknown=1;SOME_KEY=x;K8S_POD_NAME=web")
            self.assertEqual(result["cniVersion"], version)
            self.assertEqual([("version" in ip) for ip in result["ips"]], [version < "1.0.0"] * 2)
            self.assertEqual(result["interfaces"][result["ips"][0]["interface"]]["sandbox"], space)
            shown = output_of("ip", "-n", f"cni-v{number}", "-o", "address", "show", "eth0")
            for ip in result["ips"]:
                self.assertIn(ip["address"], shown)
            again = self.do("ADD", config, f"c{number}", space)
            self.assertEqual(again, result, "the same answer again")
            if version != "0.3.1":
                self.do("CHECK", {**config, "prevResult": result}, f"c{number}", space)
                subprocess.run(["ip", "-n", f"cni-v{number}", "address", "flush", "dev", "eth0"], check=True)
                self.assertIn("is missing in the pod", self.refusal("CHECK", {**config, "prevResult": result}, f"c{number}", space)[1])
            self.do("DEL", {**config, "prevResult": result}, f"c{number}", space)
            self.do("DEL", config, f"c{number}", space)
            self.do("DEL", config, f"c{number}", "/run/netns/gone")
        self.assertEqual(self.do("VERSION", {"cniVersion": "1.0.0"}), {"cniVersion": "1.0.0", "supportedVersions": list(VERSIONS)})
        self.do("STATUS", self.config())
        self.assert_nothing_left()

    @unittest.skipIf(subprocess.run(["unshare", "-n", "sh", "-c", "ip link add b type bridge vlan_filtering 1 && ip link add link b name b.1 type vlan id 1"],
                                    check=False, capture_output=True).returncode == 0, "this kernel has VLANs")
    def test_a_vlan_is_refused_where_the_kernel_has_none(self):
        config, space = self.config(vlan=100), self.space("cni-vlan")
        for command, arguments in (("ADD", ("c", space)), ("STATUS", ())):
            code, message = self.refusal(command, config, *arguments)
            self.assertIn("'vlan' of network-bridge asks for VLAN 100: this kernel", message)
            self.assertIn("leave 'vlan' out", message)
            self.assertEqual(code, 50 if command == "STATUS" else 2)
        self.do("DEL", config, "c", space)
        self.do("GC", config)
        self.assertIn("1 to 4094", self.refusal("ADD", self.config(vlan=4095), "c", space)[1])
        self.assert_nothing_left()

    def test_garbage_is_collected_and_the_rest_stays(self):
        for name in ("a", "b", "c"):
            self.do("ADD", self.config(runtimeConfig={"portMappings": [{"hostPort": 9000 + ord(name), "containerPort": 80, "protocol": "tcp"}]}),
                    name, self.space(f"cni-{name}"))
        self.do("GC", self.config(**{"cni.dev/valid-attachments": [{"containerID": "b", "ifname": "eth0"}]}))
        self.assertEqual(len(self.held()), 2)
        rules = output_of("nft", "list", "ruleset")
        self.assertIn(f"tcp . {9000 + ord('b')}", rules)
        self.assertNotIn(f"tcp . {9000 + ord('a')}", rules)
        self.do("GC", self.config())
        self.assert_nothing_left()

    def test_rules_that_were_flushed_come_back_with_the_next_command(self):
        mapping = {"portMappings": [{"hostPort": 9100, "containerPort": 80, "protocol": "udp"}]}
        self.do("ADD", self.config(runtimeConfig=mapping), "a", self.space("cni-a"))
        rules = output_of("nft", "-s", "list", "table", "inet", "pintle-network-bridge")
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        self.do("ADD", self.config(), "b", self.space("cni-b"))
        self.assertEqual(output_of("nft", "-s", "list", "table", "inet", "pintle-network-bridge"), rules)
        for name in ("a", "b"):
            self.do("DEL", self.config(), name, f"/run/netns/cni-{name}")
        self.assert_nothing_left()

    def test_bad_input_gets_one_clear_line(self):
        space = self.space("cni-bad")
        for config, code, words in (
                ("", 6, "it is no JSON"), ('{"cniVersion": "1.0.0",', 6, "it is no JSON: line 1"), ("[]", 6, "a JSON object is expected"),
                ("[" * 100, 6, "it is no JSON"), (self.config("0.1.0"), 1, "cniVersion '0.1.0'"), (self.config(name="../x"), 7, "name of the network"),
                (self.config(podCidr="10.0.0.0/8"), 2, "unknown key 'podCidr'"), (self.config(podCIDR="10.0.0.0/99"), 7, "podCIDR"),
                (self.config(mtu=70000), 7, "mtu"), (self.config(ipam={"type": "host-local"}), 2, "'ipam' is not supported"),
                (self.config(runtimeConfig={"bandwidth": {}}), 2, "'bandwidth' is not supported"),
                (self.config(runtimeConfig={"portMappings": [{"hostPort": 99999, "containerPort": 1}]}), 7, "hostPort"),
                (self.config(prevResult={"cniVersion": "1.1.0"}), 7, "the first plugin of the list")):
            self.assertEqual((code, True), (lambda told: (told[0], words in told[1] or told[1]))(self.refusal("ADD", config, "x", space)))
        self.assertIn("unknown argument 'ODD'", self.refusal("ADD", self.config(), "x", space, arguments="ODD=1")[1])
        self.assertIn("CNI_CONTAINERID is not set", self.refusal("ADD", self.config(), "", space)[1])
        self.assertIn("CNI_NETNS is not set", self.refusal("ADD", self.config(), "x")[1])
        self.assertIn("CNI_CONTAINERID", self.refusal("ADD", self.config(), "../x", space)[1])
        self.assertIn("CNI_IFNAME", self.refusal("ADD", self.config(), "x", space, interface="a/b")[1])
        self.assertIn("/run/netns/none", self.refusal("ADD", self.config(), "x", "/run/netns/none")[1])
        self.assertIn("CNI_COMMAND 'WALK'", self.refusal("WALK", self.config())[1])
        self.assertEqual(self.refusal("GC", self.config("1.0.0"))[0], 1)
        self.assert_nothing_left()

    def test_kill_at_random_leaks_nothing(self):
        rounds = int(os.environ.get("PINTLE_CNI_ROUNDS", "100"))
        dice = random.Random(20)
        spaces = [self.space(f"cni-k{number}") for number in range(4)]
        mapping = lambda number: {"portMappings": [{"hostPort": 9200 + number, "containerPort": 80, "protocol": "udp"}]}
        self.do("ADD", self.config(), "steady", self.space("cni-steady"))
        killed = 0
        for turn in range(rounds):
            number = turn % len(spaces)
            config = self.config(runtimeConfig=mapping(number))
            for command in ("ADD", "DEL"):
                process = self.start(command, config, f"k{number}", spaces[number])
                if dice.random() < 0.7:
                    time.sleep(dice.random() * (0.012 if command == "ADD" else 0.04))
                    process.kill()
                process.stdout.close()
                killed += process.wait() < 0
            # As an engine does after a failure: it deletes until it is told that nothing is left.
            self.do("DEL", config, f"k{number}", spaces[number])
            if turn % 10 == 0:
                self.assertEqual(len(self.held()), 2, f"only the steady one has addresses, after round {turn}")
                self.assertNotIn("9200", output_of("nft", "list", "table", "inet", "pintle-network-bridge"))
                self.assertEqual(output_of("ip", "-br", "link").count("pod"), 1)
        print(f"{killed} of {2 * rounds} commands were killed", file=sys.stderr)
        self.assertGreater(killed, rounds / 4)
        self.do("DEL", self.config(), "steady", "/run/netns/cni-steady")
        self.assert_nothing_left()

    def test_many_at_once(self):
        spaces = [self.space(f"cni-m{number}") for number in range(12)]
        for command in ("ADD", "DEL"):
            running = [self.start(command, self.config(), f"m{number}", space) for number, space in enumerate(spaces)]
            answers = [process.stdout.read() for process in running]
            for process in running:
                process.stdout.close()
            self.assertEqual([process.wait(60) for process in running], [0] * len(running), answers)
            if command == "ADD":
                self.assertEqual(len({json.loads(answer)["ips"][0]["address"] for answer in answers}), len(spaces))
        self.assert_nothing_left()

    @unittest.skipUnless(os.path.exists(CNITOOL), "needs cnitool (tests/peers/build.sh cnitool)")
    def test_cnitool(self):
        configurations = os.path.join(self.folder, "net.d")
        os.makedirs(configurations)
        plugin = {key: value for key, value in self.config(capabilities={"portMappings": True}).items() if key not in ("name", "cniVersion")}
        with open(os.path.join(configurations, "10-pods.conflist"), "w", encoding="utf-8") as file:
            json.dump({"cniVersion": "1.1.0", "name": "pods", "plugins": [plugin]}, file)
        space = self.space("cni-tool")
        environment = {**os.environ, "NETCONFPATH": configurations, "CNI_PATH": os.path.dirname(PROGRAM),
                       "CAP_ARGS": json.dumps({"portMappings": [{"hostPort": 9300, "containerPort": 80, "protocol": "tcp"}]})}

        def tool(command):
            done = subprocess.run([CNITOOL, command, "pods", space], env=environment, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, f"{command}: {done.stderr}{done.stdout}")
            return done.stdout
        tool("status")
        self.assertEqual(json.loads(tool("add"))["cniVersion"], "1.1.0")
        self.assertIn("tcp . 9300", output_of("nft", "list", "ruleset"))
        tool("check")
        tool("del")
        tool("add")
        tool("gc")
        self.assert_nothing_left()


if __name__ == "__main__":
    contained.main()
