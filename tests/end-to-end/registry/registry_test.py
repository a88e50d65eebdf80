"""Images from registries: Debian's docker-registry on loopback (plain, with TLS and basic authentication, with a token server), what
becomes of transfers that are cut, and what a registry that answers nonsense gets: one clear line, and nothing is left behind.

With PINTLE_BIG_PULL=1 only the pull of 1 GB that is cut ten times.
"""

import hashlib
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import unittest
import urllib.request

import contained
import peers
import pods
from node import NodeTest, wait_for

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import servers  # noqa: E402
from servers import digest_of  # noqa: E402

BIG = os.environ.get("PINTLE_BIG_PULL") == "1"
MEBIBYTE = 1 << 20

CRICTL = peers.find("crictl")
HAS_TOOLS = all(shutil.which(tool) for tool in (servers.REGISTRY, "skopeo", "htpasswd", "openssl"))


def tar_of(files):
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return layer.getvalue()


def big_layout(folder, size):
    """An OCI layout whose one layer holds `size` random bytes; nothing of it is in memory."""
    blobs = os.path.join(folder, "blobs/sha256")
    os.makedirs(blobs)
    layer = os.path.join(folder, "layer")
    with open(layer, "wb") as file:
        entry = tarfile.TarInfo("data")
        entry.size = size
        file.write(entry.tobuf())
        for _ in range(size // MEBIBYTE):
            file.write(os.urandom(MEBIBYTE))
        file.write(bytes(1024))
    hasher = hashlib.sha256()
    with open(layer, "rb") as file:
        while piece := file.read(MEBIBYTE):
            hasher.update(piece)
    size = os.path.getsize(layer)
    os.rename(layer, os.path.join(blobs, hasher.hexdigest()))

    def add(content):
        with open(os.path.join(blobs, digest_of(content)[7:]), "wb") as file:
            file.write(content)
        return {"digest": digest_of(content), "size": len(content)}

    config = add(json.dumps({"architecture": "amd64", "os": "linux", "config": {},
                             "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hasher.hexdigest()]}}).encode())
    manifest = add(json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha256:" + hasher.hexdigest(), "size": size}]}).encode())
    with open(os.path.join(folder, "index.json"), "w", encoding="ascii") as file:
        json.dump({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", **manifest,
                                                      "annotations": {"org.opencontainers.image.ref.name": "big"}}]}, file)
    with open(os.path.join(folder, "oci-layout"), "w", encoding="ascii") as file:
        file.write('{"imageLayoutVersion": "1.0.0"}')
    return size


class Pulls(NodeTest):
    """A node without an agent, and whatever registries a test starts."""

    def setUp(self):
        self.files = os.path.join(contained.root(), self._testMethodName)
        os.makedirs(self.files, exist_ok=True)
        self.closing = []
        self.arrange()
        super().setUp()

    def arrange(self):
        """For the registries of a test class: they are there before the machine is looked at."""

    def prepare(self):
        del self.node.plugins["node-agent"]
        self.node.cri_socket = os.path.join(contained.root(), "cri.sock")
        self.node.plugins["cri"]["config"].update(socket=self.node.cri_socket)
        self.node.plugins["runtime-oci"]["config"].update(stallTimeout=2, imageFolder=os.path.join(self.files, "preload"),
                                                          registries=self.registries())

    def registries(self):
        return {}

    def tearDown(self):
        try:
            for server in self.closing:
                server.close()
            super().tearDown()
        finally:
            shutil.rmtree(self.files, ignore_errors=True)

    def start(self, server):
        self.closing.append(server)
        return server

    def folder(self, name):
        return os.path.join(self.files, name)

    # ---- The store from outside ----

    def store(self):
        found = [path for path, folders, _ in os.walk(self.node.state) if "partial" in folders and "blobs" in folders]
        self.assertEqual(len(found), 1)
        return found[0]

    def partials(self):
        folder = os.path.join(self.store(), "partial")
        return {name: os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)}

    def assert_nothing_is_left(self):
        self.assertEqual(self.partials(), {})
        self.assertEqual(os.listdir(os.path.join(self.store(), "blobs/sha256")), [])
        self.assertEqual(os.listdir(os.path.join(self.store(), "ingest")), [])

    def peak_memory(self):
        with open(f"/proc/{self.node.pid}/status", encoding="ascii") as file:
            return int(re.search(r"VmHWM:\s+(\d+) kB", file.read()).group(1)) / 1024

    def memory(self):
        with open(f"/proc/{self.node.pid}/status", encoding="ascii") as file:
            return int(re.search(r"VmRSS:\s+(\d+) kB", file.read()).group(1)) / 1024

    # ---- The commands ----

    def pull(self, *arguments, **options):
        return self.node.pintle("image", "pull", *arguments, timeout=options.pop("timeout", 60), **options)

    def refused(self, reference, *arguments):
        """(exit code, the one line) of a pull that must fail."""
        done = self.pull(reference, *arguments, check=False)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        lines = done.stderr.strip().splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        return done.returncode, lines[0]

    def pull_cut_ten_times(self, mebibytes, timeout):
        """A layer of so many random bytes comes whole through a proxy that cuts its transfer ten times, in little memory."""
        registry = self.start(servers.Registry(self.folder("registry")))
        size = big_layout(self.folder("big"), mebibytes * MEBIBYTE)
        self.skopeo("--preserve-digests", "oci:" + self.folder("big") + ":big", f"docker://{registry.name}/test/big:1")
        shutil.rmtree(self.folder("big"))
        proxy = self.start(servers.CuttingProxy(registry.port, size // 11, 10))
        before = self.memory()
        begun = time.monotonic()
        self.pull(f"{proxy.name}/test/big:1", timeout=timeout)
        took, peak = time.monotonic() - begun, self.peak_memory()
        print(f"{mebibytes} MiB cut {proxy.done} times: {took:.1f} s, peak memory of pintled {peak:.0f} MiB ({before:.0f} before)", flush=True)
        self.assertEqual(proxy.done, 10)
        self.assertLess(peak, 64)
        self.assertEqual(self.partials(), {})

    def run_crictl(self, *arguments):
        endpoint = "unix://" + self.node.cri_socket
        return subprocess.run([CRICTL, "--timeout", "60s", "--runtime-endpoint", endpoint, "--image-endpoint", endpoint, *arguments],
                              capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "HOME": self.files})

    def crictl(self, *arguments):
        done = self.run_crictl(*arguments)
        self.assertEqual(done.returncode, 0, f"{arguments}: {done.stderr}{done.stdout}{self.node.log_tail()}")
        return done.stdout

    def skopeo(self, *arguments):
        done = subprocess.run(["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", *arguments], capture_output=True,
                              text=True, check=False, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)


@unittest.skipIf(BIG, "only the big pull")
@unittest.skipUnless(HAS_TOOLS, "docker-registry, skopeo, htpasswd and openssl are needed: packaging/dependencies.sh test")
class FromRegistries(Pulls):
    def arrange(self):
        self.archive = "docker-archive:" + pods.image_archive()
        self.authority = servers.Authority(self.files)

    def registries(self):
        return {registry.name: {"caFile": self.authority.certificate} for registry in self.closing if getattr(registry, "is_tls", False)}

    def registry(self, name, **options):
        registry = self.start(servers.Registry(self.folder(name), **options))
        registry.is_tls = "tls" in options
        return registry

    @staticmethod
    def compression_of(reference):
        """Of the first layer, as the registry's manifest tells."""
        name, _, tag = reference.rpartition(":")
        registry, _, path = name.partition("/")
        kinds = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
        request = urllib.request.Request(f"http://{registry}/v2/{path}/manifests/{tag}", headers={"Accept": kinds})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)["layers"][0]["mediaType"].rpartition("+")[2].rpartition(".")[2]

    def test_a_plain_registry_on_loopback(self):
        registry, other = self.registry("plain"), self.registry("zstd")
        self.skopeo(self.archive, f"docker://{registry.name}/test/gzip:1")
        # Into a registry of its own: skopeo would reuse the layer that is there already, as gzip.
        self.skopeo("--dest-compress-format", "zstd", "--format", "oci", self.archive, f"docker://{other.name}/test/zstd:1")
        references = {"gzip": f"{registry.name}/test/gzip:1", "zstd": f"{other.name}/test/zstd:1"}
        for compression, reference in references.items():
            self.assertEqual(self.compression_of(reference), compression)
            told = self.pull(reference)
            self.assertIn(reference, told)
            described = json.loads(self.node.pintle("-o", "json", "image", "inspect", reference))
            self.assertEqual(described["tags"], [reference])
        self.assertEqual(self.partials(), {})
        by_digest = described["digests"][0]
        self.node.pintle("image", "rm", *references.values())
        self.pull(by_digest)
        self.assertIn(by_digest, self.node.pintle("-o", "json", "image", "inspect", by_digest))
        code, line = self.refused(f"{registry.name}/test/absent:1")
        self.assertEqual(code, 3, line)
        self.assertIn(f"{registry.name}/test/absent:1", line)
        code, line = self.refused("127.0.0.1:1/test/nobody:1")
        self.assertEqual(code, 5, line)
        self.assertIn("cannot be reached", line)

    @unittest.skipUnless(CRICTL, "crictl is not here: tests/peers/build.sh crictl builds it")
    def test_crictl_pulls_and_looks(self):
        registry = self.registry("basic", tls=self.authority, users={"ada": "secret:word"})
        self.node.plugins["runtime-oci"]["config"]["registries"] = self.registries()
        self.node.apply()
        self.skopeo("--dest-creds", "ada:secret:word", self.archive, f"docker://{registry.name}/test/web:1")
        reference = f"{registry.name}/test/web:1"
        done = self.run_crictl("pull", reference)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("Unauthenticated", done.stderr)
        done = self.run_crictl("pull", "--creds", "ada:wrong", reference)
        self.assertIn("Unauthenticated", done.stderr)
        self.assertNotIn("wrong", done.stderr + self.node.log_tail(200))
        self.assertIn("sha256:", self.crictl("pull", "--creds", "ada:secret:word", reference))
        described = json.loads(self.crictl("inspecti", reference))
        self.assertEqual(described["status"]["repoTags"], [reference])
        self.assertEqual(described["info"]["imageSpec"]["config"]["Cmd"], ["/bin/workload", "sleep"])
        usage = json.loads(self.crictl("imagefsinfo"))["status"]
        usage = usage.get("imageFilesystems", usage)
        usage = usage[0] if isinstance(usage, list) else usage
        self.assertGreater(int(usage["usedBytes"]["value"]), 100_000)
        self.assertTrue(os.path.isdir(usage["fsId"]["mountpoint"]))
        self.assertIn("not found", self.run_crictl("pull", "--creds", "ada:secret:word", f"{registry.name}/test/absent:1").stderr.lower()
                      .replace("notfound", "not found"))
        self.assertIn("Unavailable", self.run_crictl("pull", "127.0.0.1:1/nobody:1").stderr)
        self.crictl("rmi", reference)
        self.assertEqual(json.loads(self.crictl("images", "-o", "json"))["images"], [])

    def test_a_certificate_that_nobody_vouches_for_is_refused(self):
        registry = self.registry("tls", tls=self.authority)
        registry.is_tls = False
        self.node.plugins["runtime-oci"]["config"]["registries"] = {}
        self.node.apply()
        code, line = self.refused(f"{registry.name}/test/web:1")
        self.assertEqual(code, 7, line)
        self.assertIn("caFile", line)

    def test_a_token_server_grants_what_its_users_may(self):
        tokens = self.start(servers.TokenServer(self.authority, {"ada": "secret"},
                                                {"": {"test/open": ("pull",)}, "ada": {"test/closed": ("pull", "push"), "test/open": ("pull", "push")}}))
        registry = self.registry("tokens", tokens=tokens)
        for name in ("open", "closed"):
            self.skopeo("--dest-creds", "ada:secret", self.archive, f"docker://{registry.name}/test/{name}:1")
        tokens.asked.clear()
        self.pull(f"{registry.name}/test/open:1")
        self.assertEqual(set(tokens.asked), {("", "repository:test/open:pull")})
        self.assertEqual(len(tokens.asked), 1, "one token serves the manifest and all blobs")
        code, line = self.refused(f"{registry.name}/test/closed:1")
        self.assertEqual(code, 7, line)
        self.pull("--creds", "ada:secret", f"{registry.name}/test/closed:1")
        code, line = self.refused(f"{registry.name}/test/closed:1", "--creds", "ada:wrong")
        self.assertEqual(code, 7, line)
        self.assertIn("does not accept the credentials", line)

    def test_an_index_gives_the_manifest_of_this_platform(self):
        registry = self.start(servers.Answers())
        layer = tar_of({"file": b"content"})
        registry.image("many", layer)
        _, kind, manifest = registry.answers["/v2/many/manifests/1"]

        def entry(architecture, digest):
            return {"mediaType": kind["Content-Type"], "digest": digest, "size": len(manifest),
                    "platform": {"os": "linux", "architecture": architecture}}
        index = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                            "manifests": [entry("s390x", "sha256:" + "0" * 64), entry("amd64", digest_of(manifest))]}).encode()
        registry.answers["/v2/many/manifests/all"] = (200, {"Content-Type": "application/vnd.oci.image.index.v1+json"}, index)
        registry.answers["/v2/many/manifests/" + digest_of(index)] = registry.answers["/v2/many/manifests/all"]
        self.pull(f"{registry.name}/many:all")
        # What was pulled by its tag is known by the digest that the registry has for the tag, and found by the manifest's too.
        told = {name: self.node.pintle("-o", "json", "image", "inspect", f"{registry.name}/many{name}")
                for name in (":all", "@" + digest_of(index), "@" + digest_of(manifest))}
        self.assertEqual(len(set(told.values())), 1)
        self.assertIn(f"many@{digest_of(index)}", told[":all"])
        self.assertNotIn(f"many@{digest_of(manifest)}", told[":all"])
        self.pull(f"{registry.name}/many@{digest_of(index)}")
        alien = index.replace(b"amd64", b"riscv64")
        registry.answers["/v2/many/manifests/alien"] = (200, {"Content-Type": "application/vnd.oci.image.index.v1+json"}, alien)
        code, line = self.refused(f"{registry.name}/many:alien")
        self.assertEqual(code, 3)
        self.assertIn("only for linux/s390x, linux/riscv64", line)

    def test_credentials_stay_with_their_host(self):
        registry, other = self.start(servers.Answers()), self.start(servers.Answers())
        layer = tar_of({"file": os.urandom(1000)})
        path = registry.image("moved", layer)
        body = registry.answers[path][2]
        for known in list(registry.answers):
            inner = registry.answers[known]

            def guarded(handler, inner=inner):
                authorized = handler.headers.get("Authorization", "").startswith("Basic ")
                status, headers, content = inner if authorized else (401, {"WWW-Authenticate": 'Basic realm="x"'}, b"")
                handler.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(content)
            registry.answers[known] = guarded
        registry.answers[path] = (307, {"Location": f"http://{other.name}/elsewhere"}, b"")
        other.answers["/elsewhere"] = (200, {}, body)
        self.pull("--creds", "ada:secret", f"{registry.name}/moved:1")
        self.assertEqual([path for path, _ in other.seen if path != "/v2/"], ["/elsewhere"])
        for _, headers in other.seen:
            self.assertNotIn("Authorization", headers)

    def test_what_fails_for_a_while_is_tried_again(self):
        registry = self.start(servers.Answers())
        path = registry.image("busy", tar_of({"file": os.urandom(1000)}))
        failures = {path: [(503, {}, b""), (429, {"Retry-After": "3"}, b"")], "/v2/busy/manifests/1": [(502, {}, b"")]}
        asked = {known: [] for known in failures}
        for known, waiting in failures.items():
            inner = registry.answers[known]

            def stumbling(handler, inner=inner, waiting=waiting, times=asked[known]):
                times.append(time.monotonic())
                status, headers, content = waiting.pop(0) if waiting else inner
                handler.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(content)
            registry.answers[known] = stumbling
        self.pull(f"{registry.name}/busy:1")
        _, second, third = asked[path]
        self.assertGreater(third - second, 2.9, "Retry-After was not waited for")
        registry.answers["/v2/busy/manifests/2"] = (503, {}, b"")
        code, line = self.refused(f"{registry.name}/busy:2")
        self.assertEqual(code, 5, line)

    def test_a_proxy_is_used_where_it_is_set(self):
        registry = self.start(servers.Answers())
        registry.image("far", tar_of({"file": b"x"}))
        seen = registry.seen
        # To a proxy the whole URL is sent as the path.
        for path in list(registry.answers):
            registry.answers["http://registry.test" + path] = registry.answers[path]
        config = self.node.plugins["runtime-oci"]["config"]
        config["registries"] = {"registry.test": {"plainHTTP": True}, "other.test": {"plainHTTP": True}}
        config["proxy"] = {"http": f"http://{registry.name}", "exceptions": "other.test"}
        self.node.apply()
        self.pull("registry.test/far:1")
        self.assertTrue(seen and all(path.startswith("http://registry.test/v2/") for path, _ in seen), seen)
        count = len(seen)
        code, _ = self.refused("other.test/far:1")
        self.assertEqual(code, 5)
        self.assertEqual(len(seen), count, "an exception went through the proxy")

    def test_mirrors_are_asked_first_and_without_credentials(self):
        origin, mirror, curious = [self.start(servers.Answers()) for _ in range(3)]
        for path in ("/v2/", "/v2/web/manifests/1"):
            curious.answers[path] = (401, {"WWW-Authenticate": 'Basic realm="a mirror that would like to know"'}, b"")
        origin.image("web", tar_of({"file": b"origin"}))
        origin.image("only", tar_of({"file": b"only here"}))
        mirror.image("web", tar_of({"file": b"mirror"}))
        half = mirror.image("half", tar_of({"file": b"half"}))
        mirror.answers[half] = (404, {}, b"{}")
        origin.image("half", tar_of({"file": b"half"}))
        config = self.node.plugins["runtime-oci"]["config"]
        mirrors = {"mirrors": [{"url": "http://127.0.0.1:1"}, {"url": f"http://{curious.name}"}, {"url": f"http://{mirror.name}/"}]}
        config["registries"] = {origin.name: mirrors, "*": mirrors}
        self.node.apply()
        self.pull("--creds", "ada:secret", f"{origin.name}/web:1")
        self.assertEqual(origin.seen, [], "the registry itself was asked though its mirror has the image")
        self.assertTrue(mirror.seen)
        self.assertTrue(curious.seen)
        for _, headers in mirror.seen + curious.seen:
            self.assertNotIn("Authorization", headers)
        self.pull(f"{origin.name}/only:1")
        self.assertTrue(origin.seen)
        self.pull(f"{origin.name}/half:1")
        self.pull("registry.test/web:1")
        code, line = self.refused("registry.test/nowhere:1")
        self.assertIn("of the mirror", line)
        self.assertNotEqual(code, 0)

    def test_an_identity_token_is_given_to_the_token_server_alone(self):
        registry, tokens = self.start(servers.Answers()), self.start(servers.Answers())
        registry.image("web", tar_of({"file": b"x"}))
        for known in list(registry.answers):
            inner = registry.answers[known]

            def guarded(handler, inner=inner):
                right = handler.headers.get("Authorization") == "Bearer granted"
                challenge = {"WWW-Authenticate": f'Bearer realm="http://{tokens.name}/token",service="s"'}
                status, headers, content = inner if right else (401, challenge, b"")
                handler.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(content)
            registry.answers[known] = guarded
        tokens.answers["/token"] = (200, {}, json.dumps({"access_token": "granted"}).encode())
        auth = {1: f"{registry.name}/web:1", 2: {5: "refresh-me"}}
        self.node.admin.call("pintle.image.v1.ImageBackend", 5, auth)
        self.assertEqual([(form["grant_type"], form["refresh_token"]) for form in tokens.forms], [(["refresh_token"], ["refresh-me"])])
        self.assertNotIn("refresh-me", str(registry.seen))

    def test_a_proxy_of_tunnels_is_used_for_tls(self):
        registry = self.registry("far", tls=self.authority)
        self.skopeo(self.archive, f"docker://{registry.name}/test/web:1")
        tunnels = self.start(servers.TunnelProxy({"registry.test:5443": registry.port}))
        config = self.node.plugins["runtime-oci"]["config"]
        config["registries"] = {"registry.test:5443": {"caFile": self.authority.certificate}}
        config["proxy"] = {"https": f"http://{tunnels.name}"}
        self.node.apply()
        self.pull("registry.test:5443/test/web:1")
        self.assertTrue(tunnels.seen)
        self.assertEqual(set(tunnels.seen), {"CONNECT registry.test:5443 HTTP/1.1"})

    # ---- Bad answers ----

    def test_bad_answers_get_one_line_and_leave_nothing(self):
        registry = self.start(servers.Answers())
        kind = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        layer = tar_of({"file": os.urandom(3000)})

        def broken(name, content, **options):
            path = registry.image(name, layer)
            registry.answers[path] = (200, options, content)

        broken("forged", bytes(len(layer)))
        broken("longer", layer + b"more")
        broken("shorter", layer[:-100])
        registry.image("wrong-diff", layer, config=json.dumps({
            "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest_of(b"x")]}}).encode())
        registry.image("alien", layer, config=json.dumps({
            "architecture": "s390x", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}}).encode())
        registry.image("config", layer, config=b"{" * 1000)
        registry.answers["/v2/garbage/manifests/1"] = (200, kind, b"\x00{]" * 100)
        registry.answers["/v2/html/manifests/1"] = (200, {"Content-Type": "text/html"}, b"<html>Sign in to the hotel's network</html>")
        registry.answers["/v2/huge/manifests/1"] = (200, kind, b" " * (9 * MEBIBYTE))
        registry.answers["/v2/deep/manifests/1"] = (200, kind, b"[" * MEBIBYTE)
        registry.answers["/v2/loop/manifests/1"] = (302, {"Location": "/v2/loop/manifests/1"}, b"")
        registry.answers["/v2/nowhere/manifests/1"] = (302, {"Location": "ftp://127.0.0.1/x"}, b"")
        registry.answers["/v2/lying/manifests/1"] = (200, {**kind, "Docker-Content-Digest": "sha256:" + "1" * 64}, b"{}")
        registry.answers["/v2/old/manifests/1"] = (200, {"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"},
                                                   b'{"schemaVersion": 1, "fsLayers": []}')
        registry.answers["/v2/denied/manifests/1"] = (403, {}, b'{"errors":[{"code":"DENIED","message":"not\\nfor you"}]}')
        registry.answers["/v2/odd/manifests/1"] = (418, {}, b"teapot")
        registry.answers["/v2/realm/manifests/1"] = (401, {"WWW-Authenticate": 'Bearer realm="file:///etc/shadow",,=,"'}, b"")
        for name, exit_code, expected in (
                ("forged", 1, "damaged or forged"), ("longer", 1, "longer than"), ("shorter", 1, "truncated in the registry"),
                ("wrong-diff", 2, "layer 1 of 1"), ("alien", 2, "s390x"), ("config", 2, "config"),
                ("garbage", 2, "no JSON"), ("html", 2, "web page"), ("huge", 2, "more than"), ("deep", 2, "JSON"),
                ("loop", 2, "circle"), ("nowhere", 2, "URL"), ("lying", 1, "damaged or forged"), ("old", 2, "schema version"),
                ("denied", 7, "DENIED: not for you"), ("odd", 2, "418"), ("realm", 2, "token server")):
            with self.subTest(name):
                code, line = self.refused(f"{registry.name}/{name}:1")
                self.assertRegex(line, expected)
                self.assertIn(registry.name, line)
                self.assertEqual(code, exit_code, line)
        self.assert_nothing_is_left()
        self.assertEqual(json.loads(self.node.pintle("-o", "json", "image", "ls"))["images"], [])
        # And all that while pods and pulls of others go on.
        registry.image("good", layer)
        self.pull(f"{registry.name}/good:1")

    def test_a_stalled_transfer_is_given_up(self):
        registry = self.start(servers.Answers())
        path = registry.image("still", tar_of({"file": os.urandom(100_000)}))
        body, ends = registry.answers[path][2], threading.Event()

        def stalling(handler):
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body[:1000])
            ends.wait(60)
            handler.close_connection = True
        registry.answers[path] = stalling
        try:
            _, line = self.refused(f"{registry.name}/still:1")
        finally:
            ends.set()
        self.assertIn("stalled", line)

    def test_a_layer_cannot_lead_out_of_its_root(self):
        outside = self.folder("outside")
        os.makedirs(outside)
        with open(os.path.join(outside, "secret"), "w", encoding="ascii") as file:
            file.write("secret")
        registry = self.start(servers.Answers())

        def layer(*entries):
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w") as tar:
                for name, kind, target in entries:
                    entry = tarfile.TarInfo(name)
                    entry.type, entry.linkname = kind, target
                    content = b"written" if kind == tarfile.REGTYPE else b""
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
            return archive.getvalue()
        hostile = {"absolute": [("way", tarfile.SYMTYPE, outside), ("way/file", tarfile.REGTYPE, "")],
                   "up": [("a", tarfile.DIRTYPE, ""), ("a/way", tarfile.SYMTYPE, "../" * 20 + outside.lstrip("/")), ("a/way/file", tarfile.REGTYPE, "")],
                   "parent": [("../" * 20 + outside.lstrip("/") + "/file", tarfile.REGTYPE, "")],
                   "hard": [("stolen", tarfile.LNKTYPE, outside + "/secret")],
                   "through": [("way", tarfile.SYMTYPE, outside), ("stolen", tarfile.LNKTYPE, "way/secret")]}
        for name, entries in hostile.items():
            registry.image(name, layer(*entries))
            done = self.pull(f"{registry.name}/{name}:1", check=False)
            self.assertEqual(os.listdir(outside), ["secret"], name)
            self.assertEqual(os.stat(os.path.join(outside, "secret")).st_nlink, 1, f"{name}: it has another name in the image")
            if name in ("parent", "hard", "through"):
                self.assertNotEqual(done.returncode, 0, name)
                self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)

    # ---- What becomes of a pull under way ----

    def held(self, size=2_000_000):
        """A registry whose layer stops in the middle until the event is set: (registry, reference, event, requests)."""
        registry = self.start(servers.Answers())
        path = registry.image("held", tar_of({"file": os.urandom(size)}))
        body, event, requests = registry.answers[path][2], threading.Event(), []

        def holding(handler):
            begin = int((re.findall(r"bytes=(\d+)-", handler.headers.get("Range", "")) or [0])[0])
            requests.append(begin)
            handler.send_response(206 if begin else 200)
            if begin:
                handler.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
            handler.send_header("Content-Length", str(len(body) - begin))
            handler.end_headers()
            handler.close_connection = True
            half = len(body) // 2
            if begin < half:
                handler.wfile.write(body[begin:half])
                begin = half
            while not event.wait(0.1):
                if self.is_gone(handler.connection):
                    return
            try:
                handler.wfile.write(body[begin:])
            except OSError:
                pass
        registry.answers[path] = holding
        return registry, f"{registry.name}/held:1", event, requests, len(body)

    @staticmethod
    def is_gone(connection):
        import select
        import socket
        if not select.select([connection], [], [], 0)[0]:
            return False
        try:
            return connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def pull_in_background(self, reference):
        return subprocess.Popen([self.node.program("pintle"), "--socket", self.node.admin.path, "image", "pull", reference],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def first_line(self, client):
        """What a pull in the background writes first."""
        import select
        self.assertTrue(select.select([client.stdout], [], [], 20)[0], "it writes nothing")
        return client.stdout.readline()

    def clients(self):
        """How many connections to its admin socket the daemon holds."""
        with open("/proc/net/unix", encoding="ascii") as file:
            fields = [line.split() for line in file]
        return sum(1 for one in fields if len(one) == 8 and one[5] == "03" and one[7] == self.node.admin.path)

    def long_stall(self):
        self.node.plugins["runtime-oci"]["config"]["stallTimeout"] = 60
        self.node.apply()

    def test_pulls_of_one_reference_are_one_and_end_with_their_last_caller(self):
        self.long_stall()
        _, reference, event, requests, size = self.held()
        first = self.pull_in_background(reference)
        wait_for("half of it has come", lambda: size // 2 in self.partials().values(), 20)
        second = self.pull_in_background(reference)
        for client in (first, second):
            self.assertIn("to fetch", self.first_line(client), "it takes part in the pull")
        clients = self.clients()
        first.kill()
        first.communicate()
        wait_for("the daemon has noticed", lambda: self.clients() < clients, 10)
        event.set()
        out, problem = second.communicate(timeout=30)
        self.assertEqual(second.returncode, 0, problem)
        self.assertIn(reference, out)
        self.assertEqual(requests, [0], "the layer was fetched once")
        log = self.node.log_tail(200)
        self.assertEqual((log.count("image pulled"), log.count("image not pulled")), (1, 0), "there were two pulls")

    def test_a_pull_that_nobody_waits_for_any_more_stops_and_is_continued_later(self):
        self.long_stall()
        _, reference, event, requests, size = self.held()
        only = self.pull_in_background(reference)
        wait_for("half of it has come", lambda: size // 2 in self.partials().values(), 20)
        only.kill()
        only.communicate()
        wait_for("it is given up", lambda: "image not pulled" in self.node.log_tail(), 10)
        event.set()
        self.pull(reference)
        self.assertEqual(requests, [0, size // 2])
        self.assertEqual(self.partials(), {})

    @unittest.skipUnless(CRICTL, "crictl is not here: tests/peers/build.sh crictl builds it")
    def test_a_client_of_cri_that_goes_takes_its_pull_along(self):
        self.long_stall()
        _, reference, _, _, size = self.held()
        endpoint = "unix://" + self.node.cri_socket
        client = subprocess.Popen([CRICTL, "--timeout", "60s", "--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "pull", reference],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HOME": self.files})
        wait_for("half of it has come", lambda: size // 2 in self.partials().values(), 20)
        client.kill()
        client.wait()
        wait_for("it is given up", lambda: "image not pulled" in self.node.log_tail(), 10)

    def test_a_full_disk_is_told_and_keeps_nothing(self):
        self.node.stop()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", self.node.state], check=True)
        try:
            self.node.start()
            registry = self.start(servers.Answers())
            registry.image("large", tar_of({"file": os.urandom(32 * MEBIBYTE)}))
            _, line = self.refused(f"{registry.name}/large:1")
            self.assertIn("No space left on device", line)
            self.assert_nothing_is_left()
            registry.image("small", tar_of({"file": os.urandom(MEBIBYTE)}))
            self.pull(f"{registry.name}/small:1")
        finally:
            self.node.stop()
            subprocess.run(["umount", self.node.state], check=True)

    def test_a_killed_daemon_continues_where_it_was(self):
        self.long_stall()
        _, reference, event, requests, size = self.held()
        only = self.pull_in_background(reference)
        wait_for("half of it has come", lambda: size // 2 in self.partials().values(), 20)
        self.node.kill()
        only.communicate()
        self.assertEqual(only.returncode, 5)
        self.node.start()
        event.set()
        self.pull(reference)
        self.assertEqual(requests, [0, size // 2])

    def test_a_partial_blob_that_lost_its_bytes_begins_anew(self):
        self.long_stall()
        _, reference, event, requests, size = self.held()
        only = self.pull_in_background(reference)
        wait_for("half of it has come", lambda: size // 2 in self.partials().values(), 20)
        self.node.kill()
        only.communicate()
        # What a power loss makes of it: the length is there, but not the bytes.
        layer = next(name for name, done in self.partials().items() if done == size // 2)
        with open(os.path.join(self.store(), "partial", layer), "r+b") as file:
            file.write(bytes(4096))
        self.node.start()
        event.set()
        self.pull(reference)
        self.assertEqual(requests, [0, size // 2, 0])

    def test_a_stop_ends_pulls_under_way(self):
        self.long_stall()
        _, reference, _, _, size = self.held()
        only = self.pull_in_background(reference)
        wait_for("half of it has come", lambda: size // 2 in self.partials().values(), 20)
        begun = time.monotonic()
        self.node.stop()
        only.communicate()
        self.assertNotEqual(only.returncode, 0)
        self.assertLess(time.monotonic() - begun, 10)
        self.node.start()

    def test_forty_megabytes_cut_ten_times(self):
        self.pull_cut_ten_times(40, 120)

    @staticmethod
    def drawn_until(terminal, pattern, limit=20):
        """What is written to a terminal until it has the pattern."""
        import select
        drawn, end = "", time.monotonic() + limit
        while not re.search(pattern, drawn):
            if not select.select([terminal], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError(f"not drawn within {limit} s: {pattern}, but {drawn!r}")
            drawn += os.read(terminal, 65536).decode()
        return drawn

    @staticmethod
    def all_of(terminal):
        """What was written to a terminal whose other end is closed."""
        drawn = b""
        try:
            while piece := os.read(terminal, 65536):
                drawn += piece
        except OSError:
            pass
        return drawn

    def test_progress_is_shown_on_a_terminal_and_in_lines_elsewhere(self):
        import pty
        self.long_stall()
        _, reference, event, _, size = self.held()
        terminal, inner = pty.openpty()
        command = [self.node.program("pintle"), "--socket", self.node.admin.path, "image", "pull", reference]
        shown = subprocess.Popen(command, stdin=inner, stdout=subprocess.DEVNULL, stderr=inner)
        plain = self.pull_in_background(reference)
        wait_for("half of it has come", lambda: size // 2 in self.partials().values(), 20)
        drawn = self.drawn_until(terminal, r"held:1: \[#{14,15}\.{15,16}\] \S+ of 1\.9Mi, 1 blobs to come")
        told = self.first_line(plain)
        event.set()
        out, problem = plain.communicate(timeout=30)
        self.assertEqual((shown.wait(30), plain.returncode), (0, 0), problem)
        os.close(inner)
        drawn += self.all_of(terminal).decode()
        os.close(terminal)
        self.assertTrue(drawn.endswith("\r\x1b[K"), "the line is not cleared at the end")
        self.assertEqual(told, f"{reference}: 2 blobs, 0 of them here, 1.9Mi to fetch\n")
        self.assertNotIn("\x1b", told + out + problem)

    # ---- Files ----

    def test_save_and_load_are_the_same_image(self):
        registry = self.registry("saved")
        reference = f"{registry.name}/test/web:1"
        self.skopeo(self.archive, f"docker://{reference}")
        self.pull(reference)
        before = json.loads(self.node.pintle("-o", "json", "image", "inspect", reference))
        path = self.folder("saved.tar")
        self.node.pintle("image", "save", reference, path)
        done = self.node.pintle("image", "save", reference, path, check=False)
        self.assertEqual(done.returncode, 6, done.stderr)
        self.node.pintle("image", "rm", reference)
        self.node.pintle("image", "load", path)
        self.assertIs(before["pinned"], False, "what was pulled can be pulled again")
        self.assertEqual(json.loads(self.node.pintle("-o", "json", "image", "inspect", reference)), {**before, "pinned": True})
        for kind in ("oci-archive", "docker-archive"):
            told = subprocess.run(["skopeo", "inspect", "--config", f"{kind}:{path}"], capture_output=True, text=True, check=False)
            self.assertEqual(told.returncode, 0, told.stderr)
            self.assertEqual(json.loads(told.stdout)["config"]["Cmd"], ["/bin/workload", "sleep"])
        done = self.node.pintle("image", "save", "absent.example/nothing:1", self.folder("nothing.tar"), check=False)
        self.assertEqual(done.returncode, 3)
        self.assertFalse(os.path.exists(self.folder("nothing.tar")))

    def test_a_folder_of_images_is_loaded_at_start(self):
        preload = self.folder("preload")
        os.makedirs(preload)
        shutil.copy(pods.image_archive(), os.path.join(preload, "workload.tar"))
        for name, content in (("broken.tar", b"no archive"), ("half.tar.part", b"still being copied"), (".hidden", b"")):
            with open(os.path.join(preload, name), "wb") as file:
                file.write(content)

        def names():
            return [tag for image in json.loads(self.node.pintle("-o", "json", "image", "ls"))["images"] for tag in image["tags"]]

        def restart():
            self.node.stop()
            open(self.node.log, "w", encoding="ascii").close()
            self.node.start()
            wait_for("the folder was looked through", lambda: "broken.tar" in self.node.log_tail(200), 20)
            with open(self.node.log, encoding="utf-8") as file:
                return file.read()
        self.assertEqual(names(), [])
        log = restart()
        wait_for("the image is there", names, 20)
        self.assertEqual(names(), [pods.IMAGE])
        self.assertNotIn("half.tar", log)
        self.assertNotIn("workload.tar", restart(), "an unchanged file was loaded again")
        os.utime(os.path.join(preload, "workload.tar"))
        self.assertIn("workload.tar", restart(), "a changed file was not loaded")
        self.node.pintle("image", "rm", pods.IMAGE)
        self.assertIn("workload.tar", restart(), "a lost image did not come back")


@unittest.skipIf(BIG, "only the big pull")
@unittest.skipUnless(HAS_TOOLS, "docker-registry and skopeo are needed: packaging/dependencies.sh test")
class PodsFromRegistries(Pulls):
    def prepare(self):
        agent = self.node.plugins["node-agent"]
        super().prepare()
        self.node.plugins["node-agent"] = agent

    def arrange(self):
        self.registry = self.start(servers.Registry(self.folder("registry")))

    def push(self, name):
        self.skopeo("docker-archive:" + pods.image_archive(), f"docker://{self.registry.name}/test/{name}:1")

    def drop(self, name, image, policy):
        self.node.drop(pods.pod(name, {"name": "main", "image": f"{self.registry.name}/test/{image}:1", "imagePullPolicy": policy,
                                       "command": ["/bin/workload"], "args": ["sleep"]}))

    def waits(self, name, *reasons):
        wait_for(f"{name} waits for {reasons}", lambda: any(reason in self.message(name) for reason in reasons), 20)

    def message(self, name):
        pod = self.node.pods().get(name)
        return pod.message if pod else ""

    def runs(self, *names, limit=40):
        wait_for(f"{names} run", lambda: set(names) <= {pod.name for pod in self.node.pods().values() if pod.is_running()}, limit)

    def test_pull_policies(self):
        self.push("web")
        self.drop("never", "web", "Never")
        self.waits("never", "ErrImageNeverPull")
        self.drop("absent", "later", "IfNotPresent")
        self.waits("absent", "ErrImagePull", "ImagePullBackOff")
        self.drop("first", "web", "IfNotPresent")
        self.runs("first", "never")
        self.push("later")
        self.runs("absent")
        # A registry that is gone is missed only by those who always ask it.
        self.registry.close()
        self.drop("second", "web", "IfNotPresent")
        self.drop("always", "web", "Always")
        self.runs("second")
        self.waits("always", "ErrImagePull", "ImagePullBackOff")
        self.assertFalse(self.node.pods()["always"].is_running())


@unittest.skipUnless(BIG, "PINTLE_BIG_PULL is not set")
@unittest.skipUnless(HAS_TOOLS, "docker-registry and skopeo are needed: packaging/dependencies.sh test")
class BigPull(Pulls):
    def test_a_gigabyte_cut_ten_times(self):
        self.pull_cut_ten_times(1024, 600)


if __name__ == "__main__":
    contained.main()
