"""Find the files that may belong to a DICOM series: in a folder, in a zip, beside one file."""

import io
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from osteomet.errors import InputError

LARGEST_MEMBER_BYTES = 8 * 2**30
"""A zip member that unpacks to more than this is refused: no CT file is as large."""

PREAMBLE = 128


@dataclass(frozen=True)
class DicomFile:
    """A file that may hold DICOM.

    Attributes:
        name: its path below the folder or zip that was given; for messages only, never opened.
        open: returns a new binary stream from the file's start.
        is_on_disk: whether seeking in the stream costs nothing, unlike in a zip.
    """

    name: str
    open: Callable[[], io.BufferedIOBase]
    is_on_disk: bool

    def begins_like_dicom(self) -> bool:
        """Tell whether the first bytes are those of DICOM (PS3.10 section 7.1).

        Files without the preamble, written by old software, begin with a small group number.
        """
        with self.open() as stream:
            start = stream.read(PREAMBLE + 4)
        return start[PREAMBLE:] == b"DICM" or start[:2] in (b"\x02\x00", b"\x08\x00")


@contextmanager
def open_files(path: Path) -> Iterator[list[DicomFile]]:
    """Give all files below a folder, all members of a zip, or a file and its neighbours.

    A zip is never unpacked to disk: members are read one at a time, and their names are
    used in messages only.

    Raises:
        InputError: nothing is there, or the zip is damaged or encrypted.
    """
    if path.is_dir():
        yield list(_below(path))
    elif not path.is_file():
        raise InputError("no such file or folder; expected a CT scan")
    elif is_zip(path):
        with zipfile.ZipFile(path) as archive:
            yield list(_members(archive))
    else:
        yield [
            _on_disk(file, file.name) for file in sorted(path.parent.iterdir()) if file.is_file()
        ]


def is_zip(path: Path) -> bool:
    """Tell whether a file is a zip, by its content; DICOM has its preamble where a zip begins."""
    return zipfile.is_zipfile(path) and not _on_disk(path, path.name).begins_like_dicom()


def _below(folder: Path) -> Iterator[DicomFile]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(parent, name)
            if file.is_file():
                yield _on_disk(file, file.relative_to(folder).as_posix())


def _on_disk(file: Path, name: str) -> DicomFile:
    return DicomFile(name, lambda: file.open("rb"), is_on_disk=True)


def _members(archive: zipfile.ZipFile) -> Iterator[DicomFile]:
    for member in archive.infolist():
        if member.is_dir() or member.filename.startswith("__MACOSX/"):
            continue
        if member.flag_bits & 1:
            raise InputError("the zip is encrypted; expected one without a password: unpack it")
        if member.file_size > LARGEST_MEMBER_BYTES:
            raise InputError(
                f"a member of the zip unpacks to {member.file_size / 2**30:.0f} GiB; expected "
                f"DICOM files of at most {LARGEST_MEMBER_BYTES / 2**30:.0f} GiB"
            )
        yield DicomFile(member.filename, partial(_stream, archive, member), is_on_disk=False)


def _stream(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> io.BufferedIOBase:
    return io.BufferedReader(archive.open(member), 1 << 16)  # type: ignore[type-var]
