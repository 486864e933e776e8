"""A loopback proxy in front of a database: a network that is slow, goes silent, or loses what is on its way."""

import contextlib
import re
import socket
import threading
import time


class Wire:
    """Passes bytes on, for as long as it is let."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.delay_s = 0.0
        """One way."""
        self._loses_commit = ""
        self._silent = threading.Event()
        self._deaf: set[socket.socket] = set()
        self._open: list[socket.socket] = []
        self.trips = 0
        """How often the client has spoken after the server did."""
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, url: str, connect_timeout_s: int) -> str:
        """A database's URL, through here."""
        url = re.sub(r"connect_timeout=\d+", f"connect_timeout={connect_timeout_s}", url)
        return url.replace(f":{self._to}/", f":{self.port}/")

    def go_silent(self) -> None:
        """Take everything, pass nothing on, close nothing: a partition."""
        self._silent.set()

    def come_back(self) -> None:
        """Pass on again; connections from before are broken."""
        self.cut()
        self._silent.clear()

    def lose_replies(self) -> None:
        """Pass on what the clients of now say, and nothing of what they are answered."""
        self._deaf.update(self._open)

    def lose_next_commit(self) -> None:
        """Let the database have the commit of the next reservation, lose its answer, and be gone after that."""
        self._loses_commit = "armed"

    def cut(self) -> None:
        """Break every connection."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # whoever reads from it closes it
        self._open = []

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with contextlib.ExitStack() as stack:
                    stack.callback(client.close)
                    server = socket.create_connection(("127.0.0.1", self._to))
                    stack.pop_all()
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += [client, server]
                spoke = ["server"]
                for who, source, target in (("client", client, server), ("server", server, client)):
                    threading.Thread(target=self._pass_on, args=(who, source, target, spoke), daemon=True).start()

    def _pass_on(self, who: str, source: socket.socket, target: socket.socket, spoke: list[str]) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65_536):
                if who == "client" and spoke[0] == "server":
                    self.trips += 1
                spoke[0] = who
                if self.delay_s:
                    time.sleep(self.delay_s)
                if self._loses_commit == "reserved" and who == "server" and b"COMMIT\0" in content:
                    self._loses_commit = ""
                    self.go_silent()
                elif self._loses_commit and b"INSERT INTO runs" in content:
                    self._loses_commit = "reserved"
                if not self._silent.is_set() and not (who == "server" and source in self._deaf):
                    target.sendall(content)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        source.close()
