"""Web servers for the tests of remote shards: a real nginx, and one whose faults are scripted."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.ranks import free_port

# Debian puts daemons where a user's PATH does not look.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
SECONDS = 30  # to start

CONF = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/pid;
events {{}}
http {{
    log_format asked '$request_method $uri $status $http_range $body_bytes_sent';
    access_log {folder}/access.log asked;
    types {{ text/html html; application/x-tar tar; application/json json; }}
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        location /private/ {{
            alias {root}/;
            auth_basic "shards";
            auth_basic_user_file {folder}/passwords;
        }}
        location /whole/ {{ alias {root}/; max_ranges 0; }}
        location /slow/ {{ alias {root}/; limit_rate 8k; }}
        location /login/ {{
            location ~ manifest.json$ {{ alias {root}/shards/manifest.json; }}
            location ~ idx.json$ {{ rewrite ^/login/(.*)$ /shards/$1 last; }}
            location ~ tar$ {{ default_type text/html; return 200 "<html>Please log in</html>"; }}
        }}
        location /faulty/ {{
            proxy_pass http://127.0.0.1:{behind}/;
            proxy_buffering off;
            proxy_next_upstream off;
        }}
    }}
}}
"""


class Nginx:
    """An nginx that serves a folder; `behind` is the port of the server that /faulty/ stands for.

    User `ann` with the password `hunter2` may see /private/.
    """

    def __init__(self, folder: Path, root: Path, behind: int = 1) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "access.log"
        (folder / "passwords").write_text("ann:{PLAIN}hunter2\n")
        user = "user root;" if os.geteuid() == 0 else ""
        settings = {"folder": folder, "root": root, "port": self.port, "behind": behind}
        (folder / "nginx.conf").write_text(CONF.format(user=user, **settings))
        program = shutil.which("nginx", path=PATH)
        assert program is not None
        command = [program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + SECONDS
        while not (folder / "pid").is_file() or not (folder / "pid").read_text():
            assert self._process.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < end, "nginx does not start"
            time.sleep(0.02)

    def asked(self) -> list[str]:
        """Return the requests so far: method, path, status, range, bytes sent."""
        return self._log.read_text().splitlines()

    def forget(self) -> None:
        """Forget the requests so far."""
        os.truncate(self._log, 0)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(SECONDS)


def why_no_nginx() -> str | None:
    """Return why there can be no nginx here, None where there can."""
    if shutil.which("nginx", path=PATH) is None:
        return "needs nginx: apt-get install nginx-light"
    return None


class Faulty(ThreadingHTTPServer):
    """Serves a folder with Range, but first does what `script` says, a step a request.

    Steps: "cut N" closes after N bytes, "html" answers a page, "500" fails, "later" asks to wait a
    second, "whole" ignores the range, "wrong" damages the first byte, "ok" serves.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.script: list[str] = []
        self.forever = "ok"
        self.ranges: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def do(self, *script: str, forever: str = "ok") -> None:
        """Set what the next requests of tars meet, and all after them."""
        self.script = list(script)
        self.forever = forever
        self.ranges = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Faulty

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(200, (self.server.root / self.path.lstrip("/")).read_bytes(), body=False)

    def do_GET(self) -> None:
        path = self.server.root / self.path.lstrip("/")
        if not path.is_file():
            return self._answer(404, b"no")
        data = path.read_bytes()
        step = "ok"
        if path.suffix == ".tar":
            self.server.ranges.append(self.headers.get("Range", ""))
            step = self.server.script.pop(0) if self.server.script else self.server.forever
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if step == "html":
            self._answer(200, b"<html>Please log in</html>", kind="text/html")
        elif step == "500":
            self._answer(500, b"ouch")
        elif step == "later":
            self._answer(503, b"busy", wait=1)
        elif step == "whole":
            self._answer(200, data)
        elif step == "wrong":
            self._answer(200, bytes([data[0] ^ 1]) + data[1:])
        else:
            cut = int(step.partition(" ")[2]) if step.startswith("cut") else None
            status = 206 if start else 200
            self._answer(status, data[start:], cut=cut, span=(start, len(data)))
        return None

    def _answer(
        self,
        status: int,
        data: bytes,
        *,
        kind: str = "application/x-tar",
        cut: int | None = None,
        span: tuple[int, int] | None = None,
        wait: int | None = None,
        body: bool = True,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if wait is not None:
            self.send_header("Retry-After", str(wait))
        if status == 206 and span:
            self.send_header("Content-Range", f"bytes {span[0]}-{span[1] - 1}/{span[1]}")
        self.end_headers()
        if body:
            self.wfile.write(data[:cut])
        if cut is not None:
            self.close_connection = True


@contextmanager
def faulty_server(root: Path) -> Iterator[Faulty]:
    """Run a Faulty in a thread."""
    with Faulty(root) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
