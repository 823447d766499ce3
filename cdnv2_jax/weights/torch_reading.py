"""Reading of PyTorch files, and of plain pickles of NumPy arrays, without running anything in them."""

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from cdnv2_jax.bounded_reading import read_bytes
from cdnv2_jax.errors import RunFailure, UserError, import_optional, one_line
from cdnv2_jax.inert_pickle import (
    STAND_INS,
    Ignored,
    bounded_copies,
    check_opcodes,
    read_plain_pickle,
    with_inert_encode,
)
from cdnv2_jax.paths import as_path

LARGEST_FILE = 2**30  # bytes; the largest official checkpoint, cdnv2_c with EMA and optimizer, is 80 MB
MOST_ENTRIES = 20_000  # tensors and counters; the same checkpoint has 3,000
SAVE = 'save the weights alone: torch.save(model.state_dict(), "weights.pth")'
AGAIN = "download it again"

_BEGINNINGS = {
    b"\x1f\x8b": "is compressed by gzip: unpack it with gunzip",
    b"BZh": "is compressed by bzip2: unpack it with bunzip2",
    b"\xfd7zXZ": "is compressed by xz: unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd: unpack it with unzstd",
    b"7z\xbc\xaf": "is a 7z archive: unpack it and give the file inside",
    b"Rar!": "is a RAR archive: unpack it and give the file inside",
    b"\x89HDF": f"is an HDF5 file, not a PyTorch file: with PyTorch, {SAVE}",
    b"\x93NUMPY": f"is a NumPy file, not a PyTorch file: with PyTorch, {SAVE}",
    b"version https://git-lfs": "is a Git LFS pointer: fetch the file itself with git lfs pull",
    b"<": f"is a web page, not the weights: {AGAIN}, from the link to the file itself",
}
"""First bytes of a file → what it is and what to do."""


TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""The number at the beginning of files of `torch.save` from before PyTorch 1.6, which were not zip archives."""
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))


def kind_of(path: Path) -> Literal["torch", "pickle"]:
    """Return whether a file may be one of `torch.save` or a plain pickle; raise UserError for any other.

    Raises:
      UserError: there is no such file, or it is something else; the message says what and what to do.
    """
    if not path.is_file():
        if (path / "data.pkl").exists() or list(path.glob("*/data.pkl")):
            raise UserError(f"{path} is an unpacked PyTorch file: pack it with zip -0 -r weights.pth {path.name}")
        what = "a directory" if path.is_dir() else "a pipe, a socket or a device"
        raise UserError(f"{path} is {what}, not a PyTorch file" if path.exists() else f"{path}: no such file")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise UserError(f"{path} has {size:,} bytes, more than any checkpoint of these networks: {SAVE}")
    if not size:
        raise UserError(f"{path} is empty: {AGAIN}")
    with path.open("rb") as file:
        head = file.read(512)
    for beginning, what in _BEGINNINGS.items():
        if head.lstrip().startswith(beginning):
            raise UserError(f"{path} {what}")
    if head[257:262] == b"ustar":
        raise UserError(f"{path} is a real tar archive: unpack it with tar -xf and give the file inside")
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < size:
        raise UserError(f"{path} is a safetensors file: rename it to end in .safetensors")
    if head.startswith(b"PK"):
        _check_archive(path, size)
        return "torch"
    if TORCH_MAGIC in head[:64]:
        return "torch"
    if head.startswith(_PICKLES):
        return "pickle"
    raise UserError(f"{path} is not a PyTorch checkpoint, it cannot be read as tensors: {AGAIN}, or {SAVE}")


def _check_archive(path: Path, size: int) -> None:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except RunFailure:
        raise
    except Exception as error:  # zipfile raises errors of many types for a damaged directory
        raise UserError(f"{path} is not a complete PyTorch file, its end is missing or damaged: {AGAIN}") from error
    names = [entry.filename for entry in entries]
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise UserError(f"{path} is a TorchScript program, which would have to be run: {SAVE}")
    if names and all(name.endswith(".npy") for name in names):
        raise UserError(f"{path} is a NumPy archive (.npz), not a PyTorch file: with PyTorch, {SAVE}")
    if not any(name.endswith("/data.pkl") for name in names):
        raise UserError(f"{path} is a zip archive, not a file of torch.save: unzip it and give the file inside")
    # torch.save never compresses, and a compressed archive could unpack to any size.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(
            f"{path} was packed again with compression, which torch.save does not use: unzip it and pack it with zip -0"
        )
    if len(set(names)) < len(names):
        raise UserError(f"{path} holds entries of the same name: {AGAIN}")
    if len(entries) > MOST_ENTRIES:
        raise UserError(f"{path} holds {len(entries):,} tensors, more than any checkpoint of these networks: {SAVE}")
    # Entries that overlap would be read again and again.
    if (declared := sum(entry.file_size for entry in entries)) > size:
        raise UserError(f"{path} declares {declared:,} bytes of tensors but has {size:,}: {AGAIN}")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read the dict that `torch.save` wrote, with tensors on the CPU, or a pickle of NumPy arrays.

    Nothing in the file is executed: `weights_only=True`, and inert stand-ins for the classes that training scripts
    store beside the weights.

    Raises:
      UserError: the file does not exist, is not a PyTorch file, is truncated, or would run code.
    """
    path = as_path(path)
    torch = import_optional("torch", "torch") if kind_of(path) == "torch" else None
    try:
        data = read_bytes(path, LARGEST_FILE)
        checkpoint = read_plain_pickle(data) if torch is None else _load(torch, data)
    except RunFailure:  # of the bucket, not of the file
        raise
    except pickle.UnpicklingError as error:
        raise UserError(_explain_refusal(path, str(error))) from error
    except Exception as error:  # torch.load raises errors of many types for damaged files
        raise UserError(f"{path} is not a complete PyTorch file ({one_line(error, 120)}): {AGAIN}") from error
    if not isinstance(checkpoint, Mapping):
        raise UserError(f"{path} holds a {type(checkpoint).__name__}, not a dict of weights: {SAVE}")
    return dict(checkpoint)


def _load(torch: Any, data: bytes) -> Any:
    stand_ins = [(stand_in, name) for name, stand_in in STAND_INS.items()]
    # Of bytes, because from a path PyTorch would first try to unpack the file as a tar, into a folder.
    buffer = _checked_archive(data) if data.startswith(b"PK") else _checked_old_file(data)
    with torch.serialization.safe_globals(stand_ins), bounded_copies(len(data)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols and storages; what matters becomes an error
        return torch.load(buffer, map_location="cpu", weights_only=True)


def _checked_archive(data: bytes) -> io.BytesIO:
    """Return a new archive with the same entries, checksums verified: PyTorch's own reader ignores them, and may find
    other entries than `zipfile` in one made to deceive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(buffer, "w") as checked:
        for entry in archive.infolist():
            content = archive.read(entry)
            if entry.filename.endswith("/data.pkl"):
                content = with_inert_encode(content, check_opcodes(io.BytesIO(content), len(content)))
            checked.writestr(entry.filename, content)
    buffer.seek(0)
    return buffer


class _Storages(pickle.Unpickler):
    """Loads nothing; `names` are those of the storages that a pickle refers to."""

    def __init__(self, data: io.BytesIO):
        super().__init__(data)
        self.names: set[object] = set()

    def find_class(self, module_name: str, global_name: str) -> Any:
        return Ignored

    def persistent_load(self, pid: Any) -> None:
        self.names.add(pid[2])


def _checked_old_file(data: bytes) -> io.BytesIO:
    """Check a file from before PyTorch 1.6: four pickles, a fifth of the storages' names, then their contents."""
    buffer = io.BytesIO(data)
    starts, encodes = [], []
    for _ in range(5):
        starts.append(buffer.tell())
        encodes += check_opcodes(buffer, len(data))
    referred = _Storages(io.BytesIO(data[starts[3] :]))
    referred.load()
    buffer.seek(starts[4])
    stored = _Storages(buffer).load()
    # PyTorch would leave the others as they are allocated: of any size, filled with what was in memory.
    if not isinstance(stored, list) or referred.names != set(stored):
        raise ValueError("tensors without contents")
    return io.BytesIO(with_inert_encode(data, encodes))


def _explain_refusal(path: Path, message: str) -> str:
    if re.search(r"Unsupported operand (?:140|147|148|149)", message):
        return f"{path} was written with pickle protocol 4 or later, which cannot be read safely: {SAVE}"
    found = re.search(r"GLOBAL ([\w.]+)|[Cc]lass(?:es)? ([\w.]+)|function ([\w.]+)", message)
    if found is None:
        return f"{path} is not a PyTorch checkpoint, it cannot be read as tensors: {AGAIN}, or {SAVE}"
    name = next(group for group in found.groups() if group)[-80:]
    return f"{path} was refused: it asks for {name}, and loading it would run code; {SAVE}"
