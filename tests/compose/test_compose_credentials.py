"""A run's credentials: certificates that verify, hashes that mosquitto reads, files that only their owner
opens.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from compose.broker_config import (
    MESSAGE_BYTES_MAX,
    QUEUED_BYTES_MAX,
    QUEUED_MESSAGES_MAX,
    mosquitto_conf,
)
from compose.credentials import (
    Authority,
    make_credentials,
    password_hash,
    verify_password,
    write_private,
)
from coordinator.config import CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, OPEN_GRANT_BYTES_MAX
from wire.messages import MESSAGE_BYTES_MAX as CONTROL_BYTES_MAX

AGENTS = ["pi-1", "pi-2"]
NAMES, ADDRESSES = ["broker", "localhost"], ["127.0.0.1", "10.213.0.2"]


def test_hashes_have_the_shape_that_mosquitto_reads() -> None:
    empty, kind, iterations, salt, digest = password_hash("p").split("$")
    assert (empty, kind, iterations) == ("", "7", "101")
    assert len(base64.b64decode(salt)) == 12
    assert len(base64.b64decode(digest)) == 64


def test_the_same_password_is_hashed_differently_each_time() -> None:
    first, second = password_hash("p"), password_hash("p")
    assert first != second
    assert verify_password("p", first)
    assert verify_password("p", second)
    assert not verify_password("q", first)


@pytest.mark.parametrize(
    "field", ["", "p", "$6$aaaa$bbbb", "$7$x$YQ==$YQ==", "$7$101$!$!", "$7$101$YQ==", "$7$101$YQ==$"]
)
def test_a_field_of_another_format_fits_no_password(field: str) -> None:
    assert not verify_password("p", field)


def test_every_client_has_its_own_password_and_no_file_of_the_broker_holds_one() -> None:
    made = make_credentials("r", AGENTS, NAMES, ADDRESSES)
    assert set(made.passwords) == {"coordinator", *AGENTS}
    assert len(set(made.passwords.values())) == 3
    assert all(len(password) >= 43 for password in made.passwords.values())  # 256 bits in base64
    for content in made.broker.values():
        assert not any(password.encode() in content for password in made.passwords.values())
    hashes = dict(line.split(":", 1) for line in made.broker["passwd"].decode().splitlines())
    assert all(verify_password(made.passwords[client], hashes[client]) for client in made.passwords)


def test_runs_do_not_share_anything() -> None:
    first, second = (make_credentials("r", AGENTS, NAMES, ADDRESSES) for _ in range(2))
    assert first.ca != second.ca
    assert not set(first.passwords.values()) & set(second.passwords.values())


def test_the_certificate_names_the_broker_and_is_not_an_authority() -> None:
    authority = Authority.create("r")
    pem, key = authority.server(NAMES, ADDRESSES)
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == NAMES
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ADDRESSES
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert load_pem_private_key(key, None).public_key() == certificate.public_key()
    certificate.verify_directly_issued_by(authority.certificate)


def handshake(tmp_path: Path, ca: bytes, server_name: str, authority: Authority) -> str:
    """The TLS version that a strict client of the standard library agrees on."""
    pem, key = authority.server(NAMES, ADDRESSES)
    (tmp_path / "server").write_bytes(pem + key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "server")
    client = ssl.create_default_context(cadata=ca.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=server_name) as connection:
            return connection.version() or ""
    finally:
        ours.close()
        thread.join(10)


@pytest.mark.parametrize("server_name", [*NAMES, *ADDRESSES])
def test_a_strict_client_accepts_the_broker_by_every_name(tmp_path: Path, server_name: str) -> None:
    authority = Authority.create("r")
    assert handshake(tmp_path, authority.pem, server_name, authority).startswith("TLSv1.")


def test_a_client_refuses_another_name_and_another_run(tmp_path: Path) -> None:
    authority = Authority.create("r")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, authority.pem, "elsewhere", authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, Authority.create("r").pem, "broker", authority)


def test_private_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    write_private(tmp_path / "pi-1", {"password": b"x"}, os.geteuid())
    assert stat.S_IMODE((tmp_path / "pi-1").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "pi-1" / "password").stat().st_mode) == 0o400
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "pi-1", {"password": b"y"}, os.geteuid())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may give files to anybody")
def test_only_root_gives_files_away(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="only root"):
        write_private(tmp_path / "pi-1", {"password": b"x"}, os.geteuid() + 1)


def settings(conf: str) -> dict[str, str]:
    lines = [line for line in conf.splitlines() if line and not line.startswith("#")]
    return {key: value for key, _, value in (line.partition(" ") for line in lines)}


def test_the_broker_is_never_anonymous_and_every_limit_is_set() -> None:
    found = settings(mosquitto_conf("/run/edgerig/private/broker", port=8883))
    assert found["allow_anonymous"] == "false"
    assert found["use_username_as_clientid"] == "true"
    assert found["listener"] == "8883"
    for limit in (
        "max_inflight_messages",
        "max_queued_messages",
        "max_queued_bytes",
        "message_size_limit",
        "max_packet_size",
        "memory_limit",
        "max_connections",
    ):
        assert int(found[limit]) > 0, limit
    assert settings(mosquitto_conf("/x", port=1, bind="127.0.0.1", user="root"))["listener"] == "1 127.0.0.1"


def test_the_broker_has_nothing_to_drop_in_silence() -> None:
    """What the coordinator grants at once is below half of what the broker may queue for it, in bytes and
    messages.
    """
    assert OPEN_GRANT_BYTES_MAX < QUEUED_BYTES_MAX / 2
    assert OPEN_GRANT_BYTES_MAX / CHUNK_BYTES_MIN < QUEUED_MESSAGES_MAX / 2
    assert max(CHUNK_BYTES_MAX, CONTROL_BYTES_MAX) + 1024 < MESSAGE_BYTES_MAX
