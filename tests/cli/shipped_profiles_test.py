"""Every profile that ships is right by the plugins of this build, and says what it awaits if it cannot run yet."""

import glob
import json
import os
import subprocess
import unittest

BUILD = os.environ["PINTLE_BUILD"]
PROFILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../packaging/profiles")


class ShippedProfiles(unittest.TestCase):
    def pintle(self, *arguments):
        environment = {**os.environ, "PINTLE_PROFILE_PATH": PROFILES, "PINTLE_PLUGIN_PATH": os.path.join(BUILD, "lib/pintle/plugins"),
                       "PINTLE_SOCKET": "/nonexistent"}
        return subprocess.run([os.path.join(BUILD, "kernel/cli/pintle"), *arguments], capture_output=True, text=True, check=False, env=environment)

    def test_all_are_right_and_standalone_can_run(self):
        names = sorted(os.path.basename(path)[:-5] for path in glob.glob(os.path.join(PROFILES, "*.yaml")))
        self.assertEqual(names, ["all-in-one", "control-plane", "infra", "standalone", "worker"])
        done = self.pintle("profile", "validate", *names, "-o", "json")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        awaiting = {profile["profile"] for profile in json.loads(done.stdout)["profiles"] if profile["awaits"]}
        self.assertEqual(awaiting, set(names) - {"standalone"})

    def test_standalone_is_what_its_plugins_are_with_their_defaults(self):
        plan = json.loads(self.pintle("profile", "show", "standalone", "--plan", "-o", "json").stdout)
        self.assertEqual([instance["name"] for instance in plan["instances"]], ["cri", "network-bridge", "node-agent", "runtime-oci"])
        self.assertEqual({instance["name"]: instance["config"] for instance in plan["instances"]}["network-bridge"]["podCIDR"], "10.85.0.0/16")


if __name__ == "__main__":
    unittest.main()
