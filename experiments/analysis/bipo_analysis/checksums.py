"""The checksums in the files of bipo-dist, which docs/files.md describes.  Files of earlier versions have none."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy

from .errors import AnalysisError

_SEAL = struct.Struct("<8sQ16s")
_MARK = b"bipo-sum"
_PART = 1 << 20


def require_sealed(path: Path) -> None:
    """Raises AnalysisError where the bytes of a file do not match the checksum at its end.

    A file without one, or with one of another length, passes: other programs cut it off when they change a file.
    """
    content_bytes = path.stat().st_size - _SEAL.size
    if content_bytes < 0:
        return
    with open(path, "rb") as file:
        file.seek(content_bytes)
        mark, sealed_bytes, stored = _SEAL.unpack(file.read(_SEAL.size))
        if mark != _MARK or sealed_bytes != content_bytes:
            return
        file.seek(0)
        checksum = hashlib.blake2b(digest_size=len(stored))
        while content_bytes > 0:
            part = file.read(min(_PART, content_bytes))
            if not part:
                break
            checksum.update(part)
            content_bytes -= len(part)
    if checksum.digest() != stored:
        raise AnalysisError("damaged: its bytes do not match the checksum at its end; take an intact copy")


def checked_values(dataset: h5py.Dataset) -> numpy.ndarray:
    """All values of a dataset.  Raises AnalysisError where they do not match its checksum."""
    # Slicing would cost more than reading: a sweep has thousands of these small datasets.
    values = numpy.empty(dataset.shape, dataset.dtype)
    if values.size:
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    if "checksum" in dataset.attrs:
        stored = dataset.attrs["checksum"]
        shape = ",".join(map(str, dataset.shape))
        columns = ",".join(dataset.dtype.names or ())
        text = f"{dataset.name.rpartition('/')[2]}[{shape}]{columns}"
        checksum = hashlib.blake2b(text.encode(), digest_size=16)
        checksum.update(numpy.asarray(values).tobytes())
        _require_same(stored, checksum.hexdigest(), f"{dataset.name} does")
    return values


def require_checked_attributes(group: h5py.Group, attributes: Mapping[str, object] | None = None) -> None:
    """Raises AnalysisError where the attributes of a file, or of a run in a collected sweep, do not match theirs.

    `attributes` are the group's, if they have been read already.
    """
    attributes = group.attrs if attributes is None else attributes
    stored = attributes.get("checksum")
    if stored is not None:
        names = str(stored).partition(":")[2]
        text = "".join(f"{name}\0{attributes[name]}\0" for name in names.split(","))
        checksum = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        _require_same(stored, f"{checksum}:{names}", "its attributes do")


def _require_same(stored: object, found: str, what: str) -> None:
    if stored != found:
        raise AnalysisError(f"{what} not match the checksum: damaged, or changed by another program; take an intact "
                            "copy, or see docs/files.md for a change of your own")
