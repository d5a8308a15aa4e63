"""Archives of a state folder: one file with a manifest of digests, secrets encrypted, verified when they are read.

A tar with zstd. Its first member is the manifest; files follow in its order. With a passphrase all secret files are one
member, encrypted by AES-256-GCM with a key that Argon2id makes of it.
"""

import base64
import io
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import IO, Any

from backports.zstd import ZstdError, tarfile
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from fleet.errors import StateError

Progress = Callable[[int, int], None]
"""Called with how many bytes are done, of how many."""

_VERSION = 1
_MANIFEST, _SECRETS = "manifest.json", "secrets"
_CHUNK = 1024 * 1024
_ITERATIONS, _LANES, _MEMORY_KIB, _SALT_BYTES, _NONCE_BYTES = 3, 1, 64 * 1024, 16, 12
_ABOUT = b"fleetgate backup, secrets"


class ArchiveError(StateError):
    """A backup that can't be read, and why."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in an archive: bytes and SHA-256 of each file by its path, and which of them are secret.

    `at` is the time, in microseconds, up to which all that was acknowledged is in it. `sealed`: how the secrets are
    encrypted, None where they are not.
    """

    at: int
    program: str
    files: Mapping[str, tuple[int, str]]
    secret: tuple[str, ...] = ()
    sealed: Mapping[str, str] | None = None


def is_secret(path: PurePosixPath) -> bool:
    """Whether a file of a state folder is nobody else's to read: keys and the token."""
    return path.name == "admin.token" or path.name.endswith("-key.pem")


def manifest_of(folder: Path, at: int, program: str, going_on: Callable[[], None] = lambda: None) -> Manifest:
    """Look at all files of a folder; `going_on` is called before each, and may raise."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {}
    for path in paths:
        going_on()
        files[path] = _digest(folder / path)
    return Manifest(at, program, files, tuple(path for path in paths if is_secret(PurePosixPath(path))))


def pack(folder: Path, target: Path, manifest: Manifest, passphrase: bytes | None, progress: Progress) -> int:
    """Write an archive of a folder; returns its bytes. It has its name when all of it is on the disk, and verified."""
    packing = target.with_name(f".{target.name}.packing")
    total = 2 * sum(size for size, _ in manifest.files.values())
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        progress(done, total)

    packing.unlink(missing_ok=True)
    try:
        descriptor = os.open(packing, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w|zst") as archive:
                _write(archive, folder, manifest, passphrase, advance)
            file.flush()
            os.fsync(file.fileno())
        for _path in verified(packing, passphrase, advance):
            pass
        packing.rename(target)
    finally:
        packing.unlink(missing_ok=True)
    sync(target.parent)
    return target.stat().st_size


def unpack(source: Path, folder: Path, passphrase: bytes | None, progress: Progress) -> Manifest:
    """Write what is in an archive into a folder; files that are there already, and right, stay. Raises ArchiveError."""
    done = 0
    with _opened(source) as archive:
        manifest = _read_manifest(archive)
        total = sum(size for size, _ in manifest.files.values())
        for path, content in _contents(archive, manifest, passphrase):
            size, digest = manifest.files[path]
            target = folder / path
            if not (target.is_file() and target.stat().st_size == size and _digest(target)[1] == digest):
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                _copy(content, target, path, digest)
            done += size
            progress(done, total)
    for found in folder.rglob("*"):  # of a try that was interrupted, of this archive or another
        if found.is_file() and found.relative_to(folder).as_posix() not in manifest.files:
            found.unlink()
    return manifest


def verified(
    source: Path, passphrase: bytes | None, advance: Callable[[int], None] = lambda _size: None
) -> Iterator[str]:
    """Read all of an archive: paths of files that are as the manifest says. Raises ArchiveError for one that is not."""
    with _opened(source) as archive:
        manifest = _read_manifest(archive)
        for path, content in _contents(archive, manifest, passphrase):
            _check(path, _digest_of(content), manifest.files[path][1])
            advance(manifest.files[path][0])
            yield path


def sync(path: Path) -> None:
    """Have what is known of a file or folder on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _write(
    archive: Any, folder: Path, manifest: Manifest, passphrase: bytes | None, advance: Callable[[int], None]
) -> None:
    sealed = _seal(folder, manifest, passphrase) if passphrase is not None else None
    said: dict[str, Any] = {
        "version": _VERSION,
        "at": manifest.at,
        "program": manifest.program,
        "files": {path: {"bytes": size, "sha256": digest} for path, (size, digest) in manifest.files.items()},
        "secret": list(manifest.secret),
        "sealed": None if sealed is None else sealed[0],
    }
    _add(archive, _MANIFEST, json.dumps(said).encode())
    if sealed is not None:
        _add(archive, _SECRETS, sealed[1])
    for path, (size, _) in manifest.files.items():
        if sealed is None or path not in manifest.secret:
            info = tarfile.TarInfo(f"files/{path}")
            info.size, info.mode = size, 0o600
            with (folder / path).open("rb") as content:
                archive.addfile(info, content)
        advance(size)


def _seal(folder: Path, manifest: Manifest, passphrase: bytes) -> tuple[dict[str, str], bytes]:
    salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
    plain = {path: base64.b64encode((folder / path).read_bytes()).decode() for path in manifest.secret}
    data = AESGCM(_key(passphrase, salt)).encrypt(nonce, json.dumps(plain).encode(), _ABOUT)
    return {"salt": salt.hex(), "nonce": nonce.hex()}, data


def _unseal(data: bytes, manifest: Manifest, passphrase: bytes) -> dict[str, bytes]:
    sealed = manifest.sealed or {}
    try:
        key = _key(passphrase, bytes.fromhex(sealed["salt"]))
        plain = json.loads(AESGCM(key).decrypt(bytes.fromhex(sealed["nonce"]), data, _ABOUT))
        return {path: base64.b64decode(content) for path, content in plain.items()}
    except InvalidTag:
        raise ArchiveError("backup: this is not its passphrase, or its secrets are damaged") from None
    except (ValueError, KeyError) as error:
        raise ArchiveError(f"backup: its secrets can't be read: {error}") from error


def _key(passphrase: bytes, salt: bytes) -> bytes:
    made = Argon2id(salt=salt, length=32, iterations=_ITERATIONS, lanes=_LANES, memory_cost=_MEMORY_KIB)
    return made.derive(passphrase)


def _add(archive: Any, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o600
    archive.addfile(info, io.BytesIO(data))


@contextmanager
def _opened(source: Path) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """Names and contents of an archive, to be read one after the other. Raises ArchiveError."""
    try:
        with source.open("rb") as file, tarfile.open(fileobj=file, mode="r|zst") as archive:
            yield _members(archive)
    except (tarfile.TarError, ZstdError, EOFError) as error:
        raise ArchiveError(f"{source}: not a whole backup: {error}") from error


def _members(archive: Any) -> Iterator[tuple[str, IO[bytes]]]:
    for member in archive:
        content = archive.extractfile(member)
        if content is None:
            raise ArchiveError(f"backup: {member.name[:200]!r} is no file")
        yield member.name, content


def _read_manifest(members: Iterator[tuple[str, IO[bytes]]]) -> Manifest:
    name, content = next(members, ("", io.BytesIO()))
    if name != _MANIFEST:
        raise ArchiveError("backup: it has no manifest")
    try:
        said = json.loads(content.read())
        version = said["version"]
        files = {path: (int(one["bytes"]), str(one["sha256"])) for path, one in said["files"].items()}
        manifest = Manifest(int(said["at"]), str(said["program"]), files, tuple(said["secret"]), said["sealed"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(f"backup: its manifest can't be read: {error}") from error
    if version != _VERSION:
        raise ArchiveError(f"backup: version {version!r}: it was made by a newer fleetgate")
    for path in manifest.files:
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or not path or "\0" in path:
            raise ArchiveError(f"backup: {path[:200]!r} is no path of a state folder")
    return manifest


def _contents(
    members: Iterator[tuple[str, IO[bytes]]], manifest: Manifest, passphrase: bytes | None
) -> Iterator[tuple[str, IO[bytes]]]:
    """All files that the manifest names, each once."""
    left = dict.fromkeys(manifest.files)
    for name, content in members:
        if name == _SECRETS:
            if passphrase is None:
                raise ArchiveError("backup: its keys are encrypted: give --passphrase-file")
            found = _unseal(content.read(), manifest, passphrase)
            given: list[tuple[str, IO[bytes]]] = [(path, io.BytesIO(data)) for path, data in found.items()]
        else:
            given = [(name.removeprefix("files/"), content)]
        for path, one in given:
            if path not in left:
                raise ArchiveError(f"backup: {path[:200]!r} is not in its manifest")
            del left[path]
            yield path, one
    if left:
        raise ArchiveError(f"backup: {next(iter(left))!r} is missing")


def _copy(content: IO[bytes], target: Path, path: str, digest: str) -> None:
    partial = target.with_name(f".{target.name}.part")
    found = sha256()
    try:
        with os.fdopen(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
            while chunk := content.read(_CHUNK):
                found.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        _check(path, found.hexdigest(), digest)
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


def _check(path: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise ArchiveError(f"backup: {path} is damaged: its digest is another")


def _digest(path: Path) -> tuple[int, str]:
    with path.open("rb") as content:
        return path.stat().st_size, _digest_of(content)


def _digest_of(content: IO[bytes]) -> str:
    found = sha256()
    while chunk := content.read(_CHUNK):
        found.update(chunk)
    return found.hexdigest()
