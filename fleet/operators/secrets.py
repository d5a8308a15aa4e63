"""Secrets of operators: passwords and tokens, made, hashed and compared."""

import secrets
from hashlib import sha256

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

PREFIX = "fgt_"
MIN_PASSWORD = 12
MAX_PASSWORD = 1024
_LENGTH, _ITERATIONS, _LANES, _MEMORY_KIB = 32, 3, 1, 64 * 1024
"""Of Argon2id: the second choice of RFC 9106, 4, with one lane instead of four: logins are rare, cores few."""
_SALT_BYTES = 16
_ID_BYTES = 6
_SECRET_BYTES = 32


def new_token() -> tuple[str, str, str]:
    """Make a token: its id, the digest that is kept, and the text that is told once: fgt_ID_SECRET."""
    found, secret = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
    return found, digest_of(secret), f"{PREFIX}{found}_{secret}"


def parts_of(text: str) -> tuple[str, str] | None:
    """Id and secret of a token's text; None for what is none."""
    found, separator, secret = text.removeprefix(PREFIX).partition("_")
    return (found, secret) if text.startswith(PREFIX) and separator else None


def digest_of(secret: str) -> str:
    """What is kept of a secret of 256 random bits: nobody can find it by trying."""
    return sha256(secret.encode()).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare in a time that does not depend on where they differ."""
    return secrets.compare_digest(one.encode(), other.encode())


def hash_password(password: str) -> str:
    """What is kept of a password. Takes a tenth of a second and 64 MiB: call it in a thread."""
    made = Argon2id(
        salt=secrets.token_bytes(_SALT_BYTES),
        length=_LENGTH,
        iterations=_ITERATIONS,
        lanes=_LANES,
        memory_cost=_MEMORY_KIB,
    )
    return made.derive_phc_encoded(password.encode())


def is_password(password: str, kept: str) -> bool:
    """Whether a password is the one whose hash is kept. Takes as long as `hash_password`."""
    try:
        Argon2id.verify_phc_encoded(password.encode(), kept)
    except InvalidKey:
        return False
    return True
