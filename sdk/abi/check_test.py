"""The checker sees each kind of break, and lets growth pass. Every case changes a copy of the present header."""
import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.realpath(__file__))
HEADER = open(os.path.join(HERE, "..", "include", "pintle", "abi.h"), encoding="utf-8").read()


def compared(old, new, breaks=None):
    """What `check` says of the header `new` where `old` was released as 0.1: exit code and output."""
    with tempfile.TemporaryDirectory() as folder:
        header = os.path.join(folder, "abi.h")

        def check(text, *arguments):
            with open(header, "w", encoding="utf-8") as file:
                file.write(text)
            return subprocess.run([os.path.join(HERE, "check"), "--header", header, "--releases", folder, *arguments],
                                  capture_output=True, text=True)
        written = check(old, "--write", "0.1")
        assert written.returncode == 0, written.stderr
        if breaks is not None:
            with open(os.path.join(folder, "0.2.breaks"), "w", encoding="utf-8") as file:
                file.write(breaks)
        done = check(new)
        return done.returncode, done.stdout + done.stderr


class Check(unittest.TestCase):
    def changed(self, was, now):
        self.assertEqual(HEADER.count(was), 1, f"the header has {was!r} {HEADER.count(was)} times")
        return HEADER.replace(was, now)

    def assert_broken(self, was, now, said):
        code, output = compared(HEADER, self.changed(was, now))
        self.assertEqual(code, 1, output)
        self.assertIn(said, output)

    def assert_compatible(self, was, now):
        code, output = compared(HEADER, self.changed(was, now))
        self.assertEqual(code, 0, output)

    def test_the_same_header_is_compatible(self):
        self.assertEqual(compared(HEADER, HEADER)[0], 0)

    def test_a_removed_field_is_seen(self):
        self.assert_broken("  pintle_text node;              /* the node's name */\n", "",
                           "struct pintle_instance_config: field node removed")

    def test_reordered_functions_are_seen(self):
        first = "  pintle_code (*retired)(pintle_host*);"
        self.assert_broken(first, "  void (*inserted)(pintle_host*);\n" + first, "field retired was")

    def test_a_field_of_another_type_is_seen(self):
        self.assert_broken("  uint64_t remaining_ns; ", "  int64_t remaining_ns; ", "field remaining_ns was uint64_t")

    def test_another_number_is_seen(self):
        self.assert_broken("PINTLE_UNAVAILABLE = 14,", "PINTLE_UNAVAILABLE = 24,", "enum PINTLE_UNAVAILABLE: was 14, is 24")

    def test_a_number_that_is_given_away_again_is_seen(self):
        self.assert_broken("PINTLE_ABORTED = 10,", "PINTLE_ABORTED = 10, PINTLE_TORN = 10,", "takes the number 10")

    def test_another_function_type_is_seen(self):
        self.assert_broken("typedef void (*pintle_ready)(void* context, uint32_t events);",
                           "typedef void (*pintle_ready)(void* context, uint64_t events);", "type pintle_ready")

    def test_a_struct_without_a_size_is_frozen(self):
        self.assert_broken("  uint8_t manifest_sha256[32]; ", "  uint8_t extra[4];\n  uint8_t manifest_sha256[32]; ", "frozen")

    def test_a_field_in_former_padding_is_seen(self):
        padded = self.changed("  int32_t pidfd; /* OWNED by the plugin, which closes it */\n  uint32_t reserved;\n",
                              "  uint64_t aligned;\n  int32_t pidfd;\n")
        code, output = compared(padded, padded.replace("  int32_t pidfd;\n", "  int32_t pidfd;\n  uint32_t slipped_in;\n"))
        self.assertEqual(code, 1, output)
        self.assertIn("inside of the former 24 bytes", output)

    def test_an_appended_function_is_fine(self):
        last = "  pintle_code (*metrics_text)(pintle_host*, pintle_text_ready, void* context); /* [any] OK: called once */\n"
        self.assert_compatible(last, last + "  pintle_code (*more)(pintle_host*);\n")

    def test_a_new_number_is_fine(self):
        self.assert_compatible("PINTLE_UNAUTHENTICATED = 16", "PINTLE_UNAUTHENTICATED = 16, PINTLE_NEW = 17")

    def test_a_later_draft_may_break_only_with_a_reason(self):
        later = self.changed("PINTLE_UNAVAILABLE = 14,", "PINTLE_UNAVAILABLE = 24,").replace(
            "#define PINTLE_ABI_MINOR 1u", "#define PINTLE_ABI_MINOR 2u")
        what = "enum PINTLE_UNAVAILABLE: was 14, is 24"
        self.assertEqual(compared(HEADER, later)[0], 1)
        self.assertEqual(compared(HEADER, later, what + " -- gRPC moved it\n")[0], 0)
        self.assertEqual(compared(HEADER, later, what + "\n")[0], 1)
        self.assertEqual(compared(HEADER, later, "another break -- with a reason\n")[0], 1)


if __name__ == "__main__":
    sys.exit(unittest.main())
