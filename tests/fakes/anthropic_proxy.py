"""Anthropic's own API as the CLI's usage command asks it, on this machine: an HTTPS proxy with an authority of its own.

Unlike the Messages API this has no address that can be configured; the CLI follows the usual variables for proxies.
"""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import trustme

HOST = "api.anthropic.com"


@dataclass
class Proxy:
    """What is answered, and what was asked: ``GET /api/oauth/usage`` and the like."""

    limits: list[dict[str, object]]
    env: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@contextmanager
def anthropic_proxy(folder: Path, limits: list[dict[str, object]]) -> Iterator[Proxy]:
    """A proxy that answers for Anthropic; a CLI with its ``env`` talks to it and believes it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(tls)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        proxy = Proxy(limits, {"HTTPS_PROXY": address, "NODE_EXTRA_CA_CERTS": str(folder / "authority.pem")})
        threading.Thread(target=_accept, args=(listening, tls, proxy), daemon=True).start()
        yield proxy
        listening.shutdown(socket.SHUT_RDWR)


def _accept(listening: socket.socket, tls: ssl.SSLContext, proxy: Proxy) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(connection, tls, proxy), daemon=True).start()


def _serve(connection: socket.socket, tls: ssl.SSLContext, proxy: Proxy) -> None:
    try:
        with connection:
            asked = b""
            while not asked.endswith(b"\r\n\r\n"):
                asked += connection.recv(1)
            if not asked.startswith(f"CONNECT {HOST}:443 ".encode()):
                return
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with tls.wrap_socket(connection, server_side=True) as inner:
                _Answer.proxy = proxy
                _Answer(inner, ("", 0), None)  # type: ignore[arg-type]  # of the server it asks nothing
    except OSError:
        return  # the CLI has gone


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.proxy.asked.append(f"{self.command} {self.path.partition('?')[0]}")
        body = json.dumps({"limits": self.proxy.limits} if self.path == "/api/oauth/usage" else {}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
