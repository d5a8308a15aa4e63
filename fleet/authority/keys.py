"""Private keys of certificate authorities, in files: encrypted where there is a passphrase."""

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

from fleet.certificates import is_der
from fleet.errors import StateError
from fleet.files import write_private

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


def read_key(path: Path, passphrase: bytes | None) -> SigningKey:
    """Read a key; one that is not encrypted yet is, where there is a passphrase. Raises StateError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from error
    encrypted = b"ENCRYPTED" in data
    if encrypted and passphrase is None:
        raise StateError(f"{path} is encrypted: set authority.passphrase_file or FLEETGATE_CA_PASSPHRASE")
    try:
        load = serialization.load_der_private_key if is_der(data) else serialization.load_pem_private_key
        key = load(data, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StateError(f"{path}: {'wrong passphrase' if encrypted else error}") from error
    if not isinstance(key, SigningKey):
        raise StateError(f"{path}: neither RSA, nor an elliptic curve, nor Ed25519 or Ed448")
    if passphrase is not None and not encrypted:
        write_key(path, key, passphrase)
    return key


def write_key(path: Path, key: SigningKey, passphrase: bytes | None) -> None:
    """Write a key, readable by its owner only."""
    cipher: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        cipher = serialization.BestAvailableEncryption(passphrase)
    write_private(path, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher))


def hash_for(key: SigningKey) -> hashes.SHA256 | hashes.SHA384 | None:
    """What is signed with: Ed25519 and Ed448 bring their own."""
    if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size > 256:
        return hashes.SHA384()
    return hashes.SHA256()


def sign(key: SigningKey, data: bytes) -> bytes:
    """Sign as certificates are."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashes.SHA384() if key.key_size > 256 else hashes.SHA256()))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(data)


def verify(key: object, signature: bytes, data: bytes) -> None:
    """Raise InvalidSignature unless `sign` made it, with the private part of this public key."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, data, ec.ECDSA(hashes.SHA384() if key.key_size > 256 else hashes.SHA256()))
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        key.verify(signature, data)
    else:
        raise InvalidSignature
