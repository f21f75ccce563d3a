"""What a file or folder holds, as a digest, without reading it each time.

A digest is kept beside the store under a name made of the files' state (path, size, time of
change), so that only what may have changed is read again. A set that was copied, moved or touched
has the same content as before.
"""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from osteomet.errors import InputError, StoreError

KNOWN = ".contents"
"""Folder of the digests inside a store."""


def content_digest(path: Path | None, store: Path) -> str | None:
    """Return a digest of names below a folder, or the suffix of a file, and of all bytes.

    Args:
        path: file or folder; None gives None.
        store: where digests are kept.

    Raises:
        InputError: a file cannot be read.
        StoreError: the digest cannot be kept.
    """
    if path is None:
        return None
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        stats = [file.stat() for file in files]
        state = [
            (str(file.resolve()), stat.st_size, stat.st_mtime_ns)
            for file, stat in zip(files, stats, strict=True)
        ]
        known = store / KNOWN / hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]
        if known.is_file():
            return known.read_text(encoding="ascii")
        digest = _digest(files, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a file") from error
    _keep(known, digest)
    return digest


def _digest(files: list[Path], path: Path) -> str:
    content = []
    for file in files:
        # The format is told from the suffix; a file's own name says nothing about its voxels.
        name = str(file.relative_to(path)) if file != path else "".join(path.suffixes)
        with file.open("rb") as stream:
            content.append((name, hashlib.file_digest(stream, "sha256").hexdigest()))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _keep(known: Path, digest: str) -> None:
    unfinished = known.with_name(f"{known.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        known.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(digest, encoding="ascii")
        unfinished.replace(known)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise StoreError(
            f"{known.parent}: cannot be written ({error.strerror}); expected a writable folder"
        ) from error
