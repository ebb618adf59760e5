"""Certificates and token files for tests, made with the openssl command."""

from __future__ import annotations

import hashlib
import json
import pathlib
import socket
import ssl
import subprocess

import grpc

import harness


def openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Pair:
    """A certificate with its key; signs others where it is an authority."""

    def __init__(self, folder: pathlib.Path, name: str, serial: int, issuer: Pair | None = None, *,
                 expired: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.serial = name, serial
        self.cert, self.key = folder / f"{name}-{serial}.crt", folder / f"{name}-{serial}.key"
        request = folder / f"{name}-{serial}.csr"
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
                str(self.key), "-out", str(request), "-subj", f"/CN={name}")
        extensions = folder / f"{name}-{serial}.ext"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n" if issuer else "basicConstraints=critical,CA:TRUE\n")
        signer = ["-CA", str(issuer.cert), "-CAkey", str(issuer.key)] if issuer else ["-signkey", str(self.key)]
        # OpenSSL 3.0 dates nothing back: an end before the beginning is the one way to an expired certificate.
        openssl("x509", "-req", "-in", str(request), "-out", str(self.cert), "-days", "-1" if expired else "2",
                "-set_serial", str(serial), "-extfile", str(extensions), *signer)

    def channel(self, target: str, own: Pair | None = None) -> grpc.Channel:
        """A new connection that trusts this authority, with a certificate of its own where one is given."""
        credentials = grpc.ssl_channel_credentials(self.cert.read_bytes(), own and own.key.read_bytes(),
                                                   own and own.cert.read_bytes())
        return grpc.secure_channel(target, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


def serial_at(target: str) -> int:
    """Serial number of the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, port = target.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 10) as plain, context.wrap_socket(plain) as secure:
        der = secure.getpeercert(binary_form=True)
    text = subprocess.run(["openssl", "x509", "-inform", "DER", "-noout", "-serial"], input=der, capture_output=True,
                          check=True).stdout.decode()
    return int(text.removeprefix("serial="), 16)


class MountedSecret:
    """tls.crt and tls.key as Kubernetes mounts them: links into ..data, a link to a folder that is swapped."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self._generation = folder, 0
        folder.mkdir()
        for name in ("tls.crt", "tls.key"):
            (folder / name).symlink_to(f"..data/{name}")

    def put(self, cert: bytes, key: bytes) -> None:
        self._generation += 1
        target = self.folder / f"..generation-{self._generation}"
        target.mkdir()
        (target / "tls.crt").write_bytes(cert)
        (target / "tls.key").write_bytes(key)
        (self.folder / "..data_tmp").symlink_to(target.name)
        (self.folder / "..data_tmp").rename(self.folder / "..data")

    def put_pair(self, pair: Pair) -> None:
        self.put(pair.cert.read_bytes(), pair.key.read_bytes())

    @property
    def options(self) -> list[str]:
        return ["--tls-cert", str(self.folder / "tls.crt"), "--tls-key", str(self.folder / "tls.key")]


class MutualTls:
    """What a server with mutual TLS and its clients need; `server` is the test's to set."""

    def __init__(self, folder, authority: Pair) -> None:
        self.authority, self.folder = authority, folder
        self.clients = Pair(folder, "clients", 7)
        self.client = Pair(folder, "client", 8, self.clients)
        self.first, self.second = (Pair(folder, "server", serial, authority) for serial in (21, 22))
        self.secret = MountedSecret(folder / "mounted")
        self.secret.put_pair(self.first)
        self.options = [*self.secret.options, "--tls-client-ca", str(self.clients.cert)]
        self.server: harness.Server | None = None

    def channel(self, own: Pair | None) -> grpc.Channel:
        return self.authority.channel(self.server.target, own)

    def reloads(self, result: str) -> float:
        return self.server.metrics()[f'kvcrush_tls_reloads_total{{result="{result}"}}']


def secret_of(name: str) -> str:
    return f"{name}-0123456789abcdef"


def write_tokens(path: pathlib.Path, **entries: dict) -> None:
    """One token a keyword; the secret is secret_of(its name)."""
    path.write_text(json.dumps({"tokens": [
        {"name": name, "sha256": hashlib.sha256(secret_of(name).encode()).hexdigest(), **fields}
        for name, fields in entries.items()]}))


def bearer(name: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {secret_of(name)}")]
