"""Registries and what stands in front of them, on loopback: Debian's docker-registry (plain, TLS, basic authentication, tokens), the
token server that it trusts, a proxy that cuts connections, and a server that answers whatever a test says."""

import base64
import hashlib
import http.server
import json
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse

REGISTRY = "/usr/bin/docker-registry"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def digest_of(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Authority:
    """A certificate of its own for 127.0.0.1 and localhost, and the key that signs tokens."""

    def __init__(self, folder):
        self.key, self.certificate = os.path.join(folder, "registry.key"), os.path.join(folder, "registry.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=pintle test", "-keyout",
                        self.key, "-out", self.certificate, "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:registry.test"],
                       check=True, capture_output=True)

    def sign(self, content):
        return subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key], input=content, check=True, capture_output=True).stdout

    def der(self):
        return subprocess.run(["openssl", "x509", "-in", self.certificate, "-outform", "der"], check=True, capture_output=True).stdout


class Registry:
    """One docker-registry; ends with `close`."""

    def __init__(self, folder, tls=None, users=None, tokens=None):
        self.port = free_port()
        self.name = f"127.0.0.1:{self.port}"
        os.makedirs(folder, exist_ok=True)
        config = {"version": 0.1, "log": {"level": "error", "accesslog": {"disabled": True}},
                  "storage": {"filesystem": {"rootdirectory": os.path.join(folder, "data")}},
                  "http": {"addr": self.name}}
        if tls:
            config["http"]["tls"] = {"certificate": tls.certificate, "key": tls.key}
        if users:
            path = os.path.join(folder, "users")
            with open(path, "w", encoding="ascii") as file:
                for user, password in users.items():
                    file.write(subprocess.run(["htpasswd", "-nbB", "-C", "4", user, password], check=True, capture_output=True,
                                              text=True).stdout.strip() + "\n")
            config["auth"] = {"htpasswd": {"realm": "test", "path": path}}
        if tokens:
            config["auth"] = {"token": {"realm": tokens.realm, "service": "test-registry", "issuer": "test-issuer",
                                        "rootcertbundle": tokens.authority.certificate}}
        path = os.path.join(folder, "config.yml")
        with open(path, "w", encoding="ascii") as file:
            json.dump(config, file)
        self.log = os.path.join(folder, "log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([REGISTRY, "serve", path], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    with open(self.log, encoding="utf-8", errors="replace") as log:
                        raise AssertionError(f"docker-registry does not start: {log.read()}") from None
                time.sleep(0.02)

    def close(self):
        self.process.kill()
        self.process.wait()


class Served:
    """Base of the threaded servers: `close` ends them."""

    def serve(self, handler, tls=None):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate, tls.key)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.name = f"127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class TokenServer(Served):
    """Gives tokens for what its users may pull; anonymous is the user ""."""

    def __init__(self, authority, users, grants):
        self.authority, self.users, self.grants, self.asked = authority, users, grants, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
                user, authorization = "", self.headers.get("Authorization", "")
                if authorization.startswith("Basic "):
                    user, _, password = base64.b64decode(authorization[6:]).decode().partition(":")
                    if outer.users.get(user) != password:
                        self.send_response(401)
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                scope = query.get("scope", [""])[0]
                outer.asked.append((user, scope))
                body = json.dumps({"token": outer.token(user, scope), "expires_in": 300}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.serve(Handler)
        self.realm = f"http://{self.name}/token"

    def token(self, user, scope):
        def part(content):
            return base64.urlsafe_b64encode(content).rstrip(b"=")
        access = []
        if scope.count(":") == 2:
            kind, name, actions = scope.split(":")
            allowed = [action for action in actions.split(",") if action in self.grants.get(user, {}).get(name, ())]
            if allowed:
                access = [{"type": kind, "name": name, "actions": allowed}]
        now = int(time.time())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(self.authority.der()).decode()]}
        claims = {"iss": "test-issuer", "sub": user, "aud": "test-registry", "exp": now + 300, "nbf": now - 10, "iat": now,
                  "jti": str(now), "access": access}
        text = part(json.dumps(header).encode()) + b"." + part(json.dumps(claims).encode())
        return (text + b"." + part(self.authority.sign(text))).decode()


class Answers(Served):
    """A registry that is what the test makes of it: path -> (status, headers, body), or a function of the handler."""

    def __init__(self, tls=None):
        self.answers, self.seen, self.forms = {}, [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
                outer.forms.append(urllib.parse.parse_qs(body))
                self.do_GET()

            def do_GET(self):
                outer.seen.append((self.path, dict(self.headers)))
                answer = outer.answers.get(self.path.partition("?")[0], (404, {}, b"{}"))
                if callable(answer):
                    return answer(self)
                status, headers, body = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    pass
                self.close_connection = True

        self.serve(Handler, tls)

    def image(self, repository, layer, config=None, tag="1"):
        """Answers for an image of one layer; returns the layer's path."""
        plain = layer
        config = config or json.dumps({"architecture": "amd64", "os": "linux", "config": {},
                                       "rootfs": {"type": "layers", "diff_ids": [digest_of(plain)]}}).encode()
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(config), "size": len(config)},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest_of(layer), "size": len(layer)}]}).encode()
        kind = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        self.answers[f"/v2/{repository}/manifests/{tag}"] = (200, kind, manifest)
        self.answers[f"/v2/{repository}/manifests/{digest_of(manifest)}"] = (200, kind, manifest)
        self.answers[f"/v2/{repository}/blobs/{digest_of(config)}"] = (200, {}, config)
        path = f"/v2/{repository}/blobs/{digest_of(layer)}"
        self.answers[path] = (200, {}, layer)
        return path


class CuttingProxy:
    """Passes connections on to a port, and cuts those whose answer is longer than `piece` bytes, `cuts` times in all."""

    def __init__(self, target, piece, cuts):
        self.target, self.piece, self.left, self.done = target, piece, cuts, 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.name = f"127.0.0.1:{self.port}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        try:
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            client.close()
            return
        threading.Thread(target=self.upstream, args=(client, server), daemon=True).start()
        passed = 0
        try:
            while data := server.recv(65536):
                passed += len(data)
                if passed > self.piece:
                    with self.lock:
                        cut = self.left > 0
                        if cut:
                            self.left -= 1
                            self.done += 1
                    if cut:
                        break
                client.sendall(data)
        except OSError:
            pass
        for end in (client, server):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()

    @staticmethod
    def upstream(client, server):
        try:
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class TunnelProxy:
    """An HTTP proxy that makes tunnels (CONNECT), to ports on loopback by the names that it is told."""

    def __init__(self, targets):
        self.targets, self.seen = targets, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.name = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(4096)
            if not piece:
                return client.close()
            head += piece
        line = head.split(b"\r\n")[0].decode()
        self.seen.append(line)
        port = self.targets.get(line.split()[1]) if line.startswith("CONNECT ") else None
        if port is None:
            client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return client.close()
        server = socket.create_connection(("127.0.0.1", port))
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        threading.Thread(target=CuttingProxy.upstream, args=(client, server), daemon=True).start()
        CuttingProxy.upstream(server, client)
        client.close()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
