"""What a file is, by its first bytes; its name is not trusted.

Sources: the magic numbers in the specifications of each format; `torch.serialization` for PyTorch's own.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from export.checkpoints.official import size_note
from stages.errors import CheckpointError

_HEAD_BYTES = 512
_JSON = re.compile(rb"\s*[{\[]")
_ONNX = re.compile(rb"\x08[\x01-\x1f](\x12|\x1a|\x22|\x2a|\x32|\x3a|\x42)")  # ir_version, then another field
_DOWNLOAD_AGAIN = "download the file itself again"
_UNPACK = "unpack it and give the checkpoint in it"
_PYTORCH = "give PyTorch or safetensors weights"
# Pattern at the start of the file, what such a file is, what to do.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the weights", "fetch them with git lfs pull"),
    (rb"(?i)[\s\xef\xbb\xbf]*<(!doctype|html|\?xml|!--)", "a web page, not the weights", _DOWNLOAD_AGAIN),
    (rb"\x1f\x8b|BZh|\xfd7zXZ\0|7z\xbc\xaf\x27\x1c|Rar!|\x28\xb5\x2f\xfd", "a compressed archive", _UNPACK),
    (rb"(?s).{257}ustar", "a tar archive", _UNPACK),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file of Keras or TensorFlow", _PYTORCH),
    (rb"(?s).{4}TFL3", "a TensorFlow Lite model", _PYTORCH),
    (rb"\x93NUMPY", "a NumPy array", _PYTORCH),
    (rb"GGUF", "a GGUF file", _PYTORCH),
    (rb"ftrt", "a TensorRT engine", "give the weights it was built from"),
    (_ONNX.pattern, "an ONNX graph", "give the weights it was exported from"),
)
_TORCHSCRIPT = "a TorchScript archive, which is code; save its weights: torch.save(model.state_dict(), FILE)"
# Pattern of a name inside a zip archive, what such an archive is and what to do.
_ZIPS: tuple[tuple[str, str], ...] = (
    (r"(^|/)constants\.pkl$", _TORCHSCRIPT),
    (r"(^|/)data\.pkl$", ""),
    (r"(^|/)(archive_format|models/.*)$", f"an exported program of torch.export; {_PYTORCH}"),
    (r"\.npy$", f"a NumPy archive; {_PYTORCH}"),
    (r"(^|/)model\.weights\.h5$", f"a Keras model; {_PYTORCH}"),
)


def kind_of(path: Path) -> str:
    """ "safetensors", "zip" (torch.save), "pickle" (torch.save of old) or "json" (an index of shards).

    Raises CheckpointError that names any other kind of file.
    """
    head = _head(path)
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        _check_zip(path)
        return "zip"
    if head.startswith(b"\x80"):
        return "pickle"
    if _JSON.match(head):
        return "json"
    for pattern, what, advice in _OTHERS:
        if re.match(pattern, head):
            raise CheckpointError(f"{path} is {what}; {advice}")
    raise CheckpointError(
        f"{path} is truncated or no PyTorch file, and no safetensors file; download it again{size_note(path)}"
    )


def _head(path: Path) -> bytes:
    try:
        if not path.is_file() and path.exists():
            raise CheckpointError(f"{path} is no regular file; give the path of a checkpoint")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError as exc:
        raise CheckpointError(f"{path} does not exist; give the path of a SAM checkpoint") from exc
    except OSError as exc:
        raise CheckpointError(f"{path} cannot be read: {exc.strerror}; give a file you may read") from exc
    if not head:
        raise CheckpointError(f"{path} is empty; download or save it again{size_note(path)}")
    if not any(head):
        raise CheckpointError(f"{path} begins with zeros: its download ended early; {_DOWNLOAD_AGAIN}")
    return head


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as exc:
        raise CheckpointError(
            f"{path} is truncated or no PyTorch file; download it again{size_note(path)}"
        ) from exc
    for pattern, what in _ZIPS:
        if any(re.search(pattern, name) for name in names):
            if what:
                raise CheckpointError(f"{path} is {what}")
            return
    held = f"; it holds {', '.join(names[:3])}" if names else ""
    raise CheckpointError(f"{path} is a zip archive{held}: {_UNPACK}")
