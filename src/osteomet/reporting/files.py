"""Result files appear whole or not at all."""

import os
import tempfile
from pathlib import Path

from osteomet.errors import ReportError


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path`` and move it into place.

    A reader never sees half a file, and an old file survives a failure.

    Raises:
        ReportError: the folder is missing, full or read-only.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            temporary.chmod(0o666 & ~_umask())  # mkstemp's 0600 would hide results from a group
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ReportError(
            f"{path}: cannot be written: {error.strerror}; expected a writable folder with space"
        ) from error


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
