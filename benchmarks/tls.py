"""TLS for the benchmarks: a certificate, and nginx as a front that speaks HTTP/2."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Where Debian puts it.
NGINX = Path("/usr/sbin/nginx")
_CONFIGURATION = """\
daemon off; pid {directory}/nginx.pid; error_log {directory}/nginx.log; worker_processes 1;
events {{ worker_connections 4096; }}
http {{
    access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi; keepalive_requests 1000000;
    upstream service {{ server {upstream}; keepalive 512; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port} ssl http2; http2_max_concurrent_streams 512;
        ssl_certificate {certificate}; ssl_certificate_key {certificate};
        location / {{
            proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection "";
        }}
    }}
}}
"""


def certificate(directory: Path) -> Path:
    """Make a certificate of 127.0.0.1 and return its file, the key included; needs openssl."""
    path = directory / "server.pem"
    extensions = ("basicConstraints=critical,CA:FALSE", "subjectAltName=IP:127.0.0.1")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-keyout", str(path), "-out", str(path) + ".crt"]
    command += [word for extension in extensions for word in ("-addext", extension)]
    subprocess.run(command, check=True, capture_output=True)
    with path.open("a", encoding="ascii") as file:
        file.write(Path(f"{path}.crt").read_text(encoding="ascii"))
    return path


def trusting(path: Path) -> dict[str, str]:
    """Return the variables with which both programs trust the certificate at *path*."""
    trusted = f"{path}.crt"
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
    return {**dict.fromkeys(names, trusted), "SSL_CERT_DIR": ""}


@contextmanager
def nginx(directory: Path, pem: Path, url: str) -> Iterator[str]:
    """Run nginx in front of the service at *url*; yield its address, which offers HTTP/2."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = directory / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            directory=directory, upstream=url.removeprefix("http://"), port=port, certificate=pem
        ),
        encoding="utf-8",
    )
    with subprocess.Popen([NGINX, "-e", directory / "nginx.log", "-c", configuration]) as process:
        try:
            _await(port)
            yield f"https://127.0.0.1:{port}"
        finally:
            process.terminate()


def _await(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 0.1).close()
            return
        except OSError:
            continue
    raise SystemExit("nginx does not listen")
