"""A run's credentials: its own certificate authority, the broker's certificate, one password per client, the
ACL.

Everything is made new for each run, in `private/<node>/`: files 0400 in folders 0700, owned by the uid of the
node's container. The authority's key is never written. No secret appears anywhere else: not in YAML,
environment, labels or the record.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import ipaddress
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wire.topics import COORDINATOR, acl_lines

# Mosquitto's own format for PBKDF2-HMAC-SHA512 (lib `mosquitto_passwd`): $7$<iterations>$<salt>$<hash>. A
# salt of 12 bytes is what 2.0 insists on. 101 iterations are its default, and enough: the passwords are 256
# random bits, so there is no dictionary to slow down, and 200 clients connect at once to a broker with little
# CPU.
HASH_ITERATIONS = 101
SALT_BYTES = 12
HASH_BYTES = 64
PASSWORD_BYTES = 32

VALID_BEFORE = datetime.timedelta(days=1)  # a device whose clock is behind still accepts the certificate
VALID_FOR = datetime.timedelta(days=90)  # longer than any run; a leaked key of an old run opens nothing


def password_hash(password: str, salt: bytes | None = None) -> str:
    """A password as one field of mosquitto's password file."""
    salt = salt if salt is not None else secrets.token_bytes(SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, HASH_ITERATIONS, HASH_BYTES)
    return f"$7${HASH_ITERATIONS}${_base64(salt)}${_base64(digest)}"


def verify_password(password: str, hashed: str) -> bool:
    """Whether a password fits a field of mosquitto's password file; False for a field of another format."""
    parts = hashed.strip().split("$")
    if len(parts) != 5 or parts[0] or parts[1] != "7" or not parts[2].isdigit():
        return False
    try:
        salt, expected = (base64.b64decode(part, validate=True) for part in parts[3:])
    except ValueError:
        return False
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, int(parts[2]), len(expected) or 1)
    return hmac.compare_digest(digest, expected)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@dataclass(frozen=True)
class Authority:
    """A certificate authority that lives in memory only."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, run: str) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"EdgeRig run {run}")
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            _builder(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def server(self, names: Iterable[str], addresses: Iterable[str]) -> tuple[bytes, bytes]:
        """Certificate and key (PEM) of a server known by these names and IP addresses."""
        names = list(names)
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        certificate = (
            _builder(_name(names[0]), self.certificate.subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        return pem, key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID_BEFORE)
        .not_valid_after(now + VALID_FOR)
    )


@dataclass(frozen=True)
class RunCredentials:
    """What the broker is told (`broker`: file name → content) and each client's password."""

    ca: bytes
    broker: dict[str, bytes]
    passwords: dict[str, str]


def make_credentials(
    run: str, agents: list[str], broker_names: list[str], broker_addresses: list[str]
) -> RunCredentials:
    """New credentials of one run. `mosquitto.conf` is not among them: it holds no secret
    (compose.broker_config).
    """
    authority = Authority.create(run)
    certificate, key = authority.server(broker_names, broker_addresses)
    passwords = {client: secrets.token_urlsafe(PASSWORD_BYTES) for client in (COORDINATOR, *agents)}
    lines = [f"{client}:{password_hash(password)}" for client, password in passwords.items()]
    return RunCredentials(
        ca=authority.pem,
        broker={
            "ca.crt": authority.pem,
            "server.crt": certificate,
            "server.key": key,
            "passwd": ("\n".join(lines) + "\n").encode(),
            "acl": ("\n".join(acl_lines(run, agents)) + "\n").encode(),
        },
        passwords=passwords,
    )


def write_private(folder: Path, files: dict[str, bytes], uid: int) -> None:
    """Write `folder` (0700) with its files (0400), all owned by `uid`. Only root can give files to another
    uid.
    """
    folder.mkdir(parents=True)
    for name, content in files.items():
        # 0400 from the first moment: there is no instant in which others could open it.
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        with open(descriptor, "wb") as file:
            file.write(content)
            give(descriptor, uid)
    give(folder, uid)
    folder.chmod(0o700)


def give(target: Path | int, uid: int) -> None:
    """Make `uid` (and the group of the same number) the owner."""
    if os.geteuid() == 0:
        os.chown(target, uid, uid)
    elif uid != os.geteuid():
        raise PermissionError(
            f"only root can give files to uid {uid}; compile the plan with uid={os.geteuid()}"
        )
