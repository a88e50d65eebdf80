"""The admin socket of `pintled` (kernel/admin/README.md): JSON requests, and calls of plugins' interfaces in Protobuf.

    admin = Admin("/tmp/x/run/pintled.sock")
    admin.get("/v1/status")["state"]
    admin.call("pintle.example.v1.Echo", 1, {1: 7, 2: "hello"}, provider="echo")
"""

import http.client
import json
import socket
import urllib.parse

import wire


class AdminError(Exception):
    """An answer that is an error: `code` as gRPC spells it, `status` as HTTP numbers it."""

    def __init__(self, status, code, message):
        super().__init__(f"{code} ({status}): {message}")
        self.status, self.code, self.message = status, code, message


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("pintle", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Admin:
    def __init__(self, path):
        self.path = path

    def request(self, method, target, body=None, timeout=60, content_type="application/json"):
        """(HTTP status, body). Raises OSError when nobody answers."""
        connection = UnixConnection(self.path, timeout)
        try:
            connection.request(method, target, body, {"Content-Type": content_type} if body is not None else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {target}: {error!r}") from error
        finally:
            connection.close()

    def _checked(self, method, target, body=None, timeout=60, content_type="application/json"):
        status, answer = self.request(method, target, body, timeout, content_type)
        if status >= 400:
            try:
                error = json.loads(answer)
            except ValueError:
                error = {}
            raise AdminError(status, error.get("code", "?"), error.get("message", answer.decode(errors="replace")))
        return answer

    def get(self, target):
        return json.loads(self._checked("GET", target))

    def send(self, method, target, value=None, timeout=120):
        body = b"" if value is None else json.dumps(value).encode()
        answer = self._checked(method, target, body, timeout)
        return json.loads(answer) if answer else {}

    def call(self, interface, method, message=None, provider="", timeout=30):
        """One call of a plugin: fields in, fields out (wire.py)."""
        query = {"timeout": timeout}
        if provider:
            query["provider"] = provider
        target = f"/v1/interfaces/{interface}/{method}?{urllib.parse.urlencode(query)}"
        return wire.decode(self._checked("POST", target, wire.encode(message or {}), timeout + 30, "application/x-protobuf"))

    def is_ready(self):
        try:
            return self.request("GET", "/readyz", timeout=5)[0] == 200
        except OSError:
            return False
