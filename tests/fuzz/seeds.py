#!/usr/bin/env python3
"""seeds.py TARGET FOLDER BUILD   writes what a fuzz target starts from: small, right inputs of its kind.

A fuzzer that has to guess a format's first byte finds nothing behind it. Every target has an entry here; one without is an error.
"""

import glob
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import zlib

TREE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
DIGEST = "sha256:" + "7" * 64


def text_of(value):
    return json.dumps(value).encode()


def files_of_the_tree(*patterns):
    found = {}
    for pattern in patterns:
        for path in glob.glob(os.path.join(TREE, pattern), recursive=True):
            if not os.path.relpath(path, TREE).startswith("build") and os.path.getsize(path) < 32768:
                with open(path, "rb") as file:
                    found[os.path.relpath(path, TREE).replace("/", "_")] = file.read()
    return found


def profiles():
    return files_of_the_tree("packaging/**/*.yaml", "packaging/**/*.json", "plugins/**/*.json", "sdk/examples/**/*.yaml", "sdk/examples/**/*.json")


POD = """apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, labels: {app: web}, annotations: {a: b}}
spec:
  terminationGracePeriodSeconds: 5
  restartPolicy: OnFailure
  hostAliases: [{ip: 192.0.2.1, hostnames: [one, two]}]
  dnsPolicy: None
  dnsConfig: {nameservers: [192.0.2.53], searches: [example.com], options: [{name: ndots, value: "2"}]}
  securityContext: {runAsUser: 1, fsGroup: 2, supplementalGroups: [3], sysctls: [{name: net.ipv4.tcp_syncookies, value: "1"}]}
  volumes:
  - {name: disk, emptyDir: {sizeLimit: 1Gi}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: host, hostPath: {path: /srv, type: DirectoryOrCreate}}
  - {name: down, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
  initContainers:
  - {name: setup, image: busybox, command: ["true"]}
  - {name: side, image: busybox, restartPolicy: Always}
  containers:
  - name: one
    image: registry.example/web:1
    imagePullPolicy: Always
    args: ["$(NAME)"]
    env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}]
    ports: [{name: http, containerPort: 80, hostPort: 8080, protocol: TCP}]
    resources: {limits: {cpu: 500m, memory: 64Mi}, requests: {cpu: 250m}}
    volumeMounts: [{name: disk, mountPath: /d, subPath: a/b}, {name: host, mountPath: /h, readOnly: true, mountPropagation: HostToContainer}]
    securityContext: {privileged: false, capabilities: {drop: [ALL], add: [NET_ADMIN]}, seccompProfile: {type: RuntimeDefault}}
    lifecycle: {postStart: {exec: {command: ["true"]}}, preStop: {sleep: {seconds: 1}}}
    startupProbe: {tcpSocket: {port: http}, failureThreshold: 3}
    livenessProbe: {httpGet: {path: /, port: 80, httpHeaders: [{name: X, value: "y"}]}}
    readinessProbe: {grpc: {port: 90, service: db}, periodSeconds: 1}
"""


def manifests():
    least = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "b", "image": "c"}]}}
    return {"full.yaml": POD.encode(), "least.json": text_of(least), "two.yaml": b"---\n" + text_of(least) + b"\n---\n" + text_of(least), **profiles()}


def layers():
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, target in (("a", tarfile.DIRTYPE, ""), ("a/file", tarfile.REGTYPE, ""), ("a/link", tarfile.SYMTYPE, "../a/file"),
                                   ("hard", tarfile.LNKTYPE, "a/file"), (".wh.gone", tarfile.REGTYPE, ""), ("a/.wh..wh..opq", tarfile.REGTYPE, ""),
                                   ("pipe", tarfile.FIFOTYPE, ""), ("way", tarfile.SYMTYPE, "/outside"), ("way/file", tarfile.REGTYPE, ""),
                                   ("long" * 60, tarfile.REGTYPE, "")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            content = b"content" if kind == tarfile.REGTYPE else b""
            entry.size = len(content)
            entry.pax_headers = {"SCHILY.xattr.user.mime": "text/plain"} if name == "a/file" else {}
            tar.addfile(entry, io.BytesIO(content))
    return {"plain.tar": plain.getvalue(), "gzip.tar": gzip.compress(plain.getvalue(), mtime=0)}


def registry_answers():
    one = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": DIGEST, "size": 100}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {**one, "mediaType": "application/vnd.oci.image.config.v1+json"}, "layers": [one, one]}
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {"mediaType": manifest["mediaType"], "digest": DIGEST, "size": 500, "platform": {"os": "linux", "architecture": "amd64", "variant": "v1"}}]}
    config = {"architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"], "Cmd": ["sh"], "Entrypoint": ["e"], "User": "1:2", "WorkingDir": "/w",
                                                                 "StopSignal": "SIGINT", "Labels": {"a": "b"}, "Volumes": {"/v": {}}},
              "rootfs": {"type": "layers", "diff_ids": [DIGEST]}, "history": [{"created_by": "x"}]}
    return {"manifest": b"\x02" + text_of(manifest), "index": b"\x01" + text_of(index), "config": b"\x00" + text_of(config),
            "token": b"\x00" + text_of({"token": "t", "access_token": "u", "expires_in": 60}),
            "error": b"\x00" + text_of({"errors": [{"code": "DENIED", "message": "no\nway"}]}), "page": b"\x03<html></html>"}


def challenges():
    return {"bearer": b'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push"',
            "basic": b'Basic realm="a \\"quoted\\" word"', "both": b"Negotiate, Basic realm=x, Bearer realm=\"y\""}


def cni():
    plugins = [{"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}},
               {"type": "portmap", "capabilities": {"portMappings": True}}]
    network = {"cniVersion": "1.1.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "pods", "disableCheck": False, "disableGC": True, "plugins": plugins}
    result = {"cniVersion": "1.1.0", "interfaces": [{"name": "veth0", "mac": "02:00:00:00:00:01"}, {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/ns", "mtu": 1500}],
              "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 1}, {"address": "fd00::2/64", "interface": 1}],
              "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400, "advmss": 1360, "priority": 1, "table": 2, "scope": 3}],
              "dns": {"nameservers": ["192.0.2.53"], "domain": "example", "search": ["example.com"], "options": ["ndots:2"]}}
    old = {"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.1.0.2/24", "gateway": "10.1.0.1"}]}
    cached = {"version": 1, "container": "c1", "nameSpace": "/ns", "interface": "eth0", "arguments": [["A", "b"]],
              "capabilities": {"portMappings": [{"hostPort": 1}]}, "list": network, "result": result}
    return {"list": text_of(network), "single": text_of({"cniVersion": "1.0.0", "name": "one", "type": "bridge"}), "result": text_of(result),
            "old-result": text_of(old), "cached": text_of(cached), "arguments": b"IgnoreUnknown=1;K8S_POD_NAME=web;A=b=c",
            "error": text_of({"cniVersion": "1.0.0", "code": 7, "msg": "no", "details": "because"})}


def host_interface(sandbox, interface):
    """As cni/bridge names the node's end: FNV-1a of both."""
    value = 0xcbf29ce484222325
    for byte in f"{sandbox}/{interface}".encode():
        value = (value ^ byte) * 0x100000001b3 % (1 << 64)
    return f"{value:016x}"


def attachments():
    record = {"version": 1, "sandbox": "s1", "result": {"cniVersion": "1.1.0", "interfaces": [
        {"name": "pod" + host_interface("s1", "eth0")[-12:], "mac": "02:00:00:00:00:01"},
        {"name": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1500, "sandbox": "/ns"}],
        "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 1}], "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]},
        "hostPorts": [{"protocol": "tcp", "hostPort": 80, "podPort": 8080, "hostIP": "192.0.2.1"}]}
    return {"record": text_of(record), "mark": b"pintle network-bridge s1 eth0 10.1.0.2/24,fd00::2/64 /run/netns/x"}


def range_files():
    def sealed(words):
        return f"{words} {zlib.crc32(words.encode()):08x}\n".encode()
    head = sealed("pintle-addresses-1 10.1.0.0/24 boot")
    lines = [sealed("+ 10.1.0.2 key s1 eth0"), sealed("+ 10.1.0.3 key s2 eth0"), sealed("- 10.1.0.2"), sealed("= 10.1.0.9")]
    return {"empty": head, "full": head + b"".join(lines)}


def encoded(message, text):
    schema = os.path.join(TREE, "sdk", "schema")
    return subprocess.run(["protoc", "-I", schema, f"--encode=runtime.v1.{message}", os.path.join(schema, "cri", "api.proto")], input=text.encode(),
                          capture_output=True, check=True).stdout


def cri_requests():
    pod = encoded("RunPodSandboxRequest", """config { metadata { name: "web" namespace: "default" uid: "u" } hostname: "web" log_directory: "/logs"
        dns_config { servers: "192.0.2.53" searches: "example.com" options: "ndots:2" } port_mappings { container_port: 80 host_port: 8080 host_ip: "192.0.2.1" }
        labels { key: "a" value: "b" } linux { cgroup_parent: "/a/b" sysctls { key: "net.ipv4.tcp_syncookies" value: "1" }
        security_context { namespace_options { pid: CONTAINER } } } }""")
    container = encoded("CreateContainerRequest", """pod_sandbox_id: "p" config { metadata { name: "one" } image { image: "busybox" } command: "sh" args: "-c"
        working_dir: "/w" envs { key: "A" value: "b" } mounts { container_path: "/m" host_path: "/h" readonly: true } log_path: "one/0.log"
        devices { container_path: "/dev/x" host_path: "/dev/null" permissions: "rwm" } linux { resources { memory_limit_in_bytes: 1000 } } }""")
    record = b"PINTREC1" + len(pod).to_bytes(4, "little") + zlib.crc32(pod).to_bytes(4, "little") + pod
    return {"pod": pod, "container": container, "record": record}


def hooks():
    hook = {"version": "1.0.0", "hook": {"path": "/bin/true", "args": ["true", "x"], "env": ["A=b"], "timeout": 3},
            "when": {"always": True, "annotations": {"^com": "y"}, "commands": ["sh$"], "hasBindMounts": True}, "stages": ["prestart", "createRuntime"]}
    return {"all": text_of(hook), "pattern": text_of({**hook, "when": {"commands": ["("]}})}


def probe_answers():
    return {"serving": b"0\0\0\0" + b"\0\0\0\0\x02\x08\x01", "not-serving": b"0\0\0\0" + b"\0\0\0\0\x02\x08\x02",
            "fields": b"0\0\0\0" + b"\0\0\0\0\x08\x12\x02ab\x1d\0\0\0\0"[:14], "unimplemented": b"12\0\0no", "http": b"\x32\0\0\0body\x01\x1b"}


def wire_frames():
    def head(kind, parts):
        return b"\x01\0\0\0" + bytes([kind, 1, 0, 0]) + len(parts).to_bytes(4, "little") + bytes(12) + bytes(8 * 4) + bytes(16) + \
            b"".join(len(part).to_bytes(8, "little") for part in parts) + b"".join(parts)
    return {f"kind-{kind}": head(kind, parts) for kind, parts in ((1, [b"text"]), (6, [b"header", b"body"]), (12, []), (21, [b"\x08\x01" * 4]))}


def http_requests():
    return {"get": b"\x10GET /pods?follow=true&a=%20b HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n\r\n",
            "post": b"\x3fPOST /pods HTTP/1.1\r\nHost: node\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody",
            "chunked": b"\x05POST /a/b HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"}


def api_targets():
    return {"logs": b"/containerLogs/ns/a%20pod/c?follow=true&tailLines=5&sinceTime=2026-01-01T00:00:00Z&limitBytes=9&stream=Stderr",
            "absolute": b"https://node:10250/stats/summary?only_cpu_and_memory=true"}


def logs():
    return {"lines": b"2026-01-01T00:00:00.000000001Z stdout F whole\n2026-01-01T00:00:00.000000002Z stderr P part\n2026-01-01T00:00:00.000000003Z stderr F rest\n"}


def references():
    return {"full": b"registry.example:5000/team/image:1.2@" + DIGEST.encode(), "short": b"busybox", "address": b"[::1]:5000/a/b_c-d.e:tag",
            "digest": DIGEST.encode()}


def plugins(build):
    found = {}
    for folder in (build, os.path.join(TREE, "build", "release")):
        for path in glob.glob(os.path.join(folder, "lib", "pintle", "plugins", "echo-c.so")):
            with open(path, "rb") as file:
                found.setdefault("echo-c.so", file.read())
    return {**found, **files_of_the_tree("plugins/*/manifest.json")}


SEEDS = {
    "profile_fuzz": profiles, "document_fuzz": manifests, "manifest_fuzz": manifests, "pintle_images_unpack_fuzz": layers,
    "pintle_images_registry_fuzz": registry_answers, "pintle_images_challenge_fuzz": challenges, "pintle_images_reference_fuzz": references,
    "cni_library_fuzz": cni, "cni_bridge_attachments_fuzz": attachments, "cni_range_file_fuzz": range_files, "cri_requests_fuzz": cri_requests,
    "oci_hooks_fuzz": hooks, "probe_answers_fuzz": probe_answers, "wire_fuzz": wire_frames, "http_request_fuzz": http_requests, "cri_log_fuzz": logs,
    "node_api_fuzz": api_targets,
}


def main():
    target, folder, build = sys.argv[1:4]
    if target != "plugin_file_fuzz" and target not in SEEDS:
        raise SystemExit(f"error: {target} has no seeds: add some to tests/fuzz/seeds.py")
    os.makedirs(folder, exist_ok=True)
    for name, content in (plugins(build) if target == "plugin_file_fuzz" else SEEDS[target]()).items():
        with open(os.path.join(folder, "seed-" + name), "wb") as file:
            file.write(content)


if __name__ == "__main__":
    main()
