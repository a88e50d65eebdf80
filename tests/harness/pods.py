"""Pods of system tests: their manifests, the image that they run, and what their logs say."""

import io
import json
import os
import re
import subprocess
import tarfile

import contained

IMAGE = "pintle.local/test/workload:latest"


def image_archive():
    """The test image: the static program `workload`, and busybox where it is."""
    programs = {"bin/workload": os.path.join(contained.build(), "tests/harness/workload"), "bin/busybox": "/bin/busybox"}
    programs.update({library.lstrip("/"): library for library in _libraries_of("/bin/busybox")})
    links = {f"bin/{applet}": "busybox" for applet in ("sh", "cat", "echo", "ls", "true", "false", "sleep", "hostname")}
    return archive_of(IMAGE, programs, ["/bin/workload", "sleep"], links)


def archive_of(reference, programs, command, links=None):
    """Writes an image of programs (path inside -> file) as `docker save` would; returns the archive's path."""
    path = os.path.join(contained.root(), reference.rpartition("/")[2].partition(":")[0] + ".tar")
    if os.path.exists(path):
        return path
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for folder in ("bin", "etc", "proc", "sys", "dev", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, source in programs.items():
            _add_program(tar, source, name)
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    config = {"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": command},
              "rootfs": {"type": "layers", "diff_ids": ["sha256:" + _sha256(layer.getvalue())]}}
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
    with tarfile.open(path + ".part", "w") as tar:
        for name, content in (("config.json", json.dumps(config).encode()), ("layer.tar", layer.getvalue()),
                              ("manifest.json", json.dumps(manifest).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    os.rename(path + ".part", path)
    return path


def _sha256(content):
    import hashlib
    return hashlib.sha256(content).hexdigest()


def _libraries_of(program):
    """What a program needs to start; nothing if it is static."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return [word for line in told.splitlines() for word in line.split() if word.startswith("/")]


def _add_program(tar, source, name):
    with open(source, "rb") as file:
        content = file.read()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o755
    tar.addfile(entry, io.BytesIO(content))


def container(name, *arguments):
    return {"name": name, "image": IMAGE, "imagePullPolicy": "Never", "command": ["/bin/workload"],
            "args": [str(argument) for argument in arguments]}


def pod(name, *containers, grace=5, restart="Always"):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"containers": list(containers), "terminationGracePeriodSeconds": grace, "restartPolicy": restart}}


def ticking(name, milliseconds=10):
    """A pod of two containers that each write a numbered line every few milliseconds."""
    return pod(name, container("one", "ticks", milliseconds), container("two", "ticks", milliseconds))


class LogReader:
    """Follows the log of one container through all its files and checks that its lines are numbered without a gap.

    CRI's format: "TIME STREAM F|P TEXT"; a part (P) is continued by the next entry of the stream. A rotated file is known again by its
    inode; whoever looks less often than twice a rotation finds it compressed, and its lines count as lost.
    """

    def __init__(self, folder):
        self.folder = folder
        self.read = {}  # by inode
        self.parts = ""
        self.expected = 0
        self.problems = []

    def catch_up(self):
        """Reads what is new; returns the number of complete lines seen so far."""
        for file in self._open_all():
            with file:
                about = os.fstat(file.fileno())
                before = self.read.get(about.st_ino, 0)
                # A file system gives the inode of a file that has gone to the next one: a log never shrinks.
                before = before if before <= about.st_size else 0
                file.seek(before)
                content = file.read()
                content = content[:content.rfind(b"\n") + 1]
                self.read[about.st_ino] = before + len(content)
                for line in content.decode(errors="replace").splitlines():
                    self._take(file.name, line)
        return self.expected

    def __repr__(self):
        """What there is, and how far it was read."""
        files = sorted(os.listdir(self.folder))
        about = [os.stat(os.path.join(self.folder, name)) for name in files]
        return f"{self.folder}: {self.expected} lines; " + ", ".join(
            f"{name} (inode {one.st_ino}): {self.read.get(one.st_ino, 0)} of {one.st_size} bytes" for name, one in zip(files, about))

    def _names(self):
        """The log files, the oldest first: 0.log.20261120-143000-042, 0.log, 1.log."""
        found = [re.fullmatch(r"(\d+)\.log(\.[-\d]+)?", name) for name in os.listdir(self.folder)]
        return [match.group() for match in sorted(filter(None, found), key=lambda one: (int(one.group(1)), one.group(2) or "~"))]

    def _open_all(self):
        """All files as they stand at one moment: none is renamed between two of them."""
        while True:
            files = []
            try:
                names = self._names()
                for name in names:
                    files.append(open(os.path.join(self.folder, name), "rb"))
                inodes = [os.fstat(file.fileno()).st_ino for file in files]
                if names == self._names() and inodes == [os.stat(file.name).st_ino for file in files]:
                    self.read = {inode: self.read[inode] for inode in inodes if inode in self.read}
                    return files
            except FileNotFoundError:
                pass
            for file in files:
                file.close()

    def _take(self, path, line):
        fields = line.split(" ", 3)
        if len(fields) < 4 or fields[1] not in ("stdout", "stderr") or fields[2] not in "FP":
            self.problems.append(f"{path}: not a line of CRI's log format: {line!r}")
            return
        self.parts += fields[3]
        if fields[2] == "P":
            return
        text, self.parts = self.parts, ""
        if not text.startswith("tick "):
            return
        number = int(text[5:])
        if number != self.expected:
            what = "doubled" if number < self.expected else "lost before it"
            self.problems.append(f"{path}: tick {number} came where {self.expected} was due: a line is {what}")
        self.expected = number + 1
