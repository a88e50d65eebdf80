"""A virtual machine of Debian 12 with systemd and cgroup v2 (make_image.sh), for what this machine itself is not.

    with VirtualMachine(folder, payload=["/x/pintle_0.1.0_amd64.deb"]) as vm:   # booted, with the payload in /payload
        print(vm.run("systemctl is-active pintled"))
        vm.power_off()     # as a cut of the mains
        vm.boot()

Its disk is a copy-on-write file over the image. Commands go over a virtio console to a root shell. The processors are emulated, so that
it runs anywhere; that is ten to twenty times slower than the machine, and time limits are multiplied by SLOWNESS.
"""

import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import unittest

import contained

SLOWNESS = 10
IMAGE = os.environ.get("PINTLE_VM_IMAGE") or os.path.expanduser("~/.cache/pintle-vm")


def make_image():
    subprocess.run([os.path.join(os.path.dirname(os.path.abspath(__file__)), "make_image.sh"), IMAGE], check=True)


def make_package(folder):
    """The node's DEB of the build under test, as pintle.deb in the folder; its path. What the harness makes lies there too."""
    os.environ[contained.INSIDE] = folder
    packages = os.path.join(folder, "packages")
    subprocess.run(["cpack", "-G", "DEB", "-B", packages], cwd=contained.build(), check=True, stdout=subprocess.DEVNULL)
    made = next(os.path.join(packages, name) for name in os.listdir(packages) if name.startswith("pintle_"))
    return shutil.move(made, os.path.join(folder, "pintle.deb"))


def main():
    """Runs the cases of the program in the image, or says that they are skipped."""
    if not shutil.which("qemu-system-x86_64") or not shutil.which("mmdebstrap"):
        print(f"{os.path.basename(sys.argv[0])} is skipped: it needs qemu-system-x86 and mmdebstrap")
        sys.exit(77)
    make_image()
    unittest.main(verbosity=2)


class CommandFailed(AssertionError):
    pass


class VirtualMachine:
    def __init__(self, folder, payload=(), memory=2048):
        self.folder, self.memory = folder, memory
        self.disk = os.path.join(folder, "disk.qcow2")
        self.payload = os.path.join(folder, "payload.tar")
        self.console = os.path.join(folder, "console.log")
        self.shell_socket = os.path.join(folder, "shell.sock")
        self.process = self.shell = None
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", os.path.join(IMAGE, "disk.raw"), self.disk], check=True)
        with tarfile.open(self.payload, "w") as tar:
            for path in payload:
                tar.add(path, os.path.basename(path))
        with open(self.payload, "ab") as file:
            file.truncate(-(-os.path.getsize(self.payload) // 512) * 512)

    def __enter__(self):
        self.boot()
        return self

    def __exit__(self, *_):
        self.power_off()

    def boot(self):
        if os.path.exists(self.shell_socket):
            os.unlink(self.shell_socket)
        with open(self.console + ".qemu", "ab") as errors:
            self.process = subprocess.Popen(
                ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", str(self.memory), "-smp", "2", "-nodefaults", "-display", "none", "-no-reboot",
                 "-kernel", os.path.join(IMAGE, "vmlinuz"), "-initrd", os.path.join(IMAGE, "initrd.img"),
                 "-append", "root=/dev/vda rw console=ttyS0 systemd.show_status=0 mitigations=off random.trust_cpu=on",
                 "-drive", f"file={self.disk},if=virtio,format=qcow2,cache=writeback",
                 "-drive", f"file={self.payload},if=virtio,format=raw,readonly=on",
                 "-device", "virtio-serial", "-device", "virtio-rng-pci",
                 "-chardev", f"file,id=log,path={self.console},append=on", "-serial", "chardev:log",
                 "-chardev", f"socket,id=shell,path={self.shell_socket},server=on,wait=off", "-device", "virtconsole,chardev=shell"],
                stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        end = time.monotonic() + 120 * SLOWNESS
        self.shell = None
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"qemu ended: {self._tail(self.console + '.qemu')}")
            self.shell = socket.socket(socket.AF_UNIX)
            try:
                self.shell.connect(self.shell_socket)
                break
            except OSError:
                self.shell.close()
                time.sleep(0.05)
        self._wait_for_shell(end)
        self.run("stty -echo -onlcr; mkdir -p /payload; [ -n \"$(ls /payload)\" ] || tar -xf /dev/vdb -C /payload")

    def _wait_for_shell(self, end):
        self.shell.settimeout(2)
        seen = b""
        while time.monotonic() < end:
            try:
                self.shell.sendall(b"\nstty -echo -onlcr; echo up-$((40+2))\n")
                while True:
                    got = self.shell.recv(65536)
                    if not got:
                        raise AssertionError(f"the machine ended: {self._tail(self.console)}")
                    seen += got
                    if b"up-42" in seen:
                        self._drain()
                        return
            except TimeoutError:
                continue
        raise AssertionError(f"no shell: {self._tail(self.console)}")

    def _drain(self):
        """What earlier greetings still answer."""
        self.shell.settimeout(0.5)
        try:
            while self.shell.recv(65536):
                pass
        except TimeoutError:
            pass

    @staticmethod
    def _tail(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()[-4000:]

    def run(self, command, check=True, limit=60):
        """The output of a shell command; (exit code, output) with check=False."""
        script = base64.b64encode(command.encode()).decode()
        line = f"echo {script} | base64 -d >/tmp/.command; bash /tmp/.command </dev/null >/tmp/.output 2>&1; c=$?; " \
               "echo; echo \"@@begin $c\"; base64 -w 1000 /tmp/.output; echo @@end\n"
        for start in range(0, len(line), 1000):  # a terminal's line has at most 4095 characters; scripts are short
            self.shell.sendall(line[start:start + 1000].encode())
        end = time.monotonic() + limit * SLOWNESS
        self.shell.settimeout(1)
        seen = b""
        while not re.search(rb"@@begin \d+\s[^@]*@@end", seen):
            if time.monotonic() > end:
                raise AssertionError(f"not within {limit * SLOWNESS} s: {command}\n{self._tail(self.console)}")
            try:
                got = self.shell.recv(65536)
            except TimeoutError:
                continue
            if not got:
                raise AssertionError(f"the machine ended during: {command}\n{self._tail(self.console)}")
            seen += got
        code, body = re.search(rb"@@begin (\d+)\s([^@]*)@@end", seen).groups()
        output = base64.b64decode(b"".join(body.split())).decode(errors="replace")
        if not check:
            return int(code), output
        if int(code):
            raise CommandFailed(f"exit {int(code)}: {command}\n{output}")
        return output

    def wait(self, what, command, limit=60):
        """Until a command succeeds; its output."""
        end = time.monotonic() + limit * SLOWNESS
        while True:
            code, output = self.run(command, check=False)
            if code == 0:
                return output
            if time.monotonic() > end:
                raise AssertionError(f"not within {limit * SLOWNESS} s: {what}: {output}")
            time.sleep(0.2)

    def power_off(self):
        """As a cut of the mains: nothing is told, nothing is synced."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        if self.shell is not None:
            self.shell.close()
            self.shell = None
