"""What a file is and what is read of it: kinds, damage, objects that are never made, folders of hubs."""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import pickle
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._utils import _rebuild_tensor_v2

from export.checkpoints.files import read_contents
from stages.errors import CheckpointError

ONE = {"a": torch.ones(2)}


class _Evil:
    """Leaves a file `trace` behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return exec, (f"open({str(self._trace)!r}, 'w').close()",)


class _Settings(dict[str, object]):
    """A mapping of a class that no other program has."""


class _Network(nn.Module):
    """A module of a class that no other program has."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.register_buffer("mean", torch.ones(3))
        self.act = nn.GELU()


def _truncated(path: Path) -> None:
    torch.save(ONE, path)
    path.write_bytes(path.read_bytes()[:-100])


def _zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("sam.pth"), io.BytesIO())


def _script(path: Path) -> None:
    _zip(path, "sam/data.pkl", "sam/code/__torch__.py", "sam/constants.pkl")


def _zip_of_the_future(path: Path) -> None:
    torch.save(ONE, path)
    directory = b"PK\x01\x02\0\0"  # then the version that reading needs, in tenths
    content = path.read_bytes()
    at = content.index(directory) + len(directory)
    path.write_bytes(content[:at] + b"\x63\0" + content[at + 2 :])


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sam/data.pkl", b"\x80\x02}.")
        archive.writestr("sam/data/0", bytes(1 << 20))


def _shared(last: object, path: Path) -> None:
    """Lists that hold one list ten times, eight levels deep."""
    tree = last
    for _ in range(8):
        tree = [tree] * 10
    torch.save(tree, path)


def _damaged_header(path: Path) -> None:
    save_file(ONE, path)
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"{" * 20 + data[28:])


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "empty": (lambda path: path.write_bytes(b""), "is empty; download or save it again"),
    "zeros": (lambda path: path.write_bytes(bytes(5000)), "begins with zeros: its download ended early"),
    "web page": (
        lambda path: path.write_text("\n<!DOCTYPE html><title>Google Drive - Virus"),
        "is a web page",
    ),
    "error of a store": (lambda path: path.write_text('<?xml version="1.0"?><Error>'), "is a web page"),
    "git lfs": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "git lfs pull"),
    "json": (lambda path: path.write_text('{"model_type": "sam"}'), "is a text, not the weights"),
    "text": (lambda path: path.write_text("weights"), "no PyTorch file, and no safetensors file"),
    "truncated": (_truncated, "truncated or no PyTorch file"),
    "zip of another version": (_zip_of_the_future, "truncated or no PyTorch file"),
    "zip bomb": (_bomb, "more than 20 times its size, as no weights do"),
    "shared lists": (lambda path: _shared([torch.ones(1)], path), "more lists or tensors in it than"),
    "shared lists of nothing": (
        lambda path: _shared([0] * 100_000, path),
        "more lists or tensors in it than",
    ),
    "damaged safetensors": (_damaged_header, "truncated or no safetensors file"),
    "code": (
        lambda path: path.write_bytes(pickle.dumps(_Evil(path.with_name("evil")))),
        "would run builtins",
    ),
    "code in a checkpoint": (
        lambda path: torch.save({**ONE, "x": _Evil(path.with_name("evil"))}, path),
        "would run __builtin__.exec; do not use it",
    ),
    "plain pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "no PyTorch file"),
    "zip": (lambda path: _zip(path, "best/sam.pth"), "is a zip archive; it holds best/sam.pth: unpack it"),
    "npz": (lambda path: _zip(path, "a.npy"), "is a NumPy archive"),
    "keras": (lambda path: _zip(path, "model.weights.h5"), "is a Keras model"),
    "exported program": (
        lambda path: _zip(path, "sam/archive_format"),
        "an exported program of torch.export",
    ),
    "torchscript": (_script, "is a TorchScript archive"),
    "tar": (_tar, "is a tar archive; unpack it"),
    "gzip": (
        lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(30)),
        "is a compressed archive; unpack it",
    ),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "an HDF5 file of Keras or TensorFlow"),
    "onnx": (lambda path: path.write_bytes(b"\x08\x08\x12\x07pytorch"), "is an ONNX graph"),
    "tflite": (lambda path: path.write_bytes(b"\x1c\0\0\0TFL3"), "is a TensorFlow Lite model"),
    "pipe": (lambda path: os.mkfifo(path), "is no regular file"),
}


@pytest.mark.parametrize("case", FILES)
def test_any_other_file_is_named_in_one_sentence(tmp_path: Path, case: str) -> None:
    write, words = FILES[case]
    path = tmp_path / "sam.pth"
    write(path)
    with pytest.raises(CheckpointError) as caught:
        read_contents(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()


def test_an_official_file_that_is_too_short_is_told_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_b_01ec64 (1).pth"
    _truncated(path)
    words = rf"it is {path.stat().st_size:,} bytes, the official file 375,042,383"
    with pytest.raises(CheckpointError, match=words):
        read_contents(path)


@pytest.mark.parametrize("new_format", [True, False])
def test_objects_beside_the_weights_are_passed_over(tmp_path: Path, new_format: bool) -> None:
    beside = {
        "epoch": 3,
        "args": argparse.Namespace(rate=1e-4),
        "loss": np.float64(0.5),
        "history": np.ones(3),
        "out": pathlib.PurePosixPath("/runs/1"),
        "hyper_parameters": _Settings(rate=1e-4),
        "labels": {1, 2},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
    }
    path = tmp_path / "sam.ckpt"
    torch.save({"model": ONE, **beside}, path, _use_new_zipfile_serialization=new_format)
    contents = read_contents(path)
    tensors = {name for name, leaf in contents.leaves.items() if isinstance(leaf, Tensor)}
    assert tensors == {"model.a", "optimizer.state.0.exp_avg"}
    assert torch.equal(contents.leaves["model.a"], torch.ones(2))  # type: ignore[arg-type]
    assert "argparse.Namespace" in contents.classes


def test_plain_builtins_beside_the_weights_are_no_code(tmp_path: Path) -> None:
    """PyTorch writes them under Python 2's names: __builtin__.long, unicode, xrange."""
    beside: tuple[object, ...] = (
        *(defaultdict(int), range(3), str, int, object, len, print, iter((1, 2)), ..., NotImplemented),
        *(ValueError("x"), slice(1), memoryview, {1}, 1 + 2j, argparse.Namespace()),
    )
    torch.save({"model": ONE, "beside": beside}, tmp_path / "sam.pth")
    contents = read_contents(tmp_path / "sam.pth")
    assert torch.equal(contents.leaves["model.a"], torch.ones(2))  # type: ignore[arg-type]
    assert contents.classes >= {"__builtin__.xrange", "__builtin__.unicode"}


def test_a_file_changes_nothing_of_torch(tmp_path: Path) -> None:
    before = _rebuild_tensor_v2.__defaults__
    content = (  # pickle's BUILD upon the function itself
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\0\0\0__defaults__)s\x86b."
    )
    torch.save({**ONE, "x": argparse.Namespace()}, tmp_path / "sam.pth")
    with (
        zipfile.ZipFile(tmp_path / "sam.pth") as archive,
        zipfile.ZipFile(tmp_path / "changing.pth", "w") as changed,
    ):
        for name in archive.namelist():
            changed.writestr(name, content if name.endswith("data.pkl") else archive.read(name))
    with pytest.raises(CheckpointError):
        read_contents(tmp_path / "changing.pth")
    assert _rebuild_tensor_v2.__defaults__ == before
    assert set(read_contents(tmp_path / "sam.pth").leaves) >= {"a"}


def test_a_module_saved_whole_is_read_without_its_class(tmp_path: Path) -> None:
    network = _Network()
    torch.save({"ema": network}, tmp_path / "whole.pt")
    leaves = read_contents(tmp_path / "whole.pt").leaves
    assert set(leaves) == {"ema.first.weight", "ema.first.bias", "ema.mean"}
    assert torch.equal(leaves["ema.first.weight"], network.first.weight)  # type: ignore[arg-type]


def test_what_holds_itself_ends(tmp_path: Path) -> None:
    tree: dict[str, object] = dict(ONE)
    tree["self"] = tree
    torch.save(tree, tmp_path / "sam.pth")
    assert set(read_contents(tmp_path / "sam.pth").leaves) == {"a"}


def test_names_do_not_say_what_a_file_is(tmp_path: Path) -> None:
    save_file(ONE, tmp_path / "sam.pth")
    torch.save(ONE, tmp_path / "sam.safetensors")
    for name in ("sam.pth", "sam.safetensors"):
        assert set(read_contents(tmp_path / name).leaves) == {"a"}


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"sam\xff.pth")
    torch.save(ONE, tmp_path / "sam.pth")
    (tmp_path / "sam.pth").rename(path)
    assert set(read_contents(path).leaves) == {"a"}


def test_records_that_were_packed_again_are_unpacked(tmp_path: Path) -> None:
    """Mapped from the disk they would be read as numbers."""
    torch.save({"a": torch.ones(1000)}, tmp_path / "sam.pth")
    with (
        zipfile.ZipFile(tmp_path / "sam.pth") as archive,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    leaf = read_contents(tmp_path / "packed.pth").leaves["a"]
    assert torch.equal(leaf, torch.ones(1000))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("sharded", [False, True])
def test_a_folder_of_a_hub_is_read(tmp_path: Path, kind: str, sharded: bool) -> None:
    save, stem = (save_file, "model") if kind == "safetensors" else (torch.save, "pytorch_model")
    names = {"a": f"{stem}.{kind}"}
    if sharded:
        names = {name: f"{stem}-{name}.{kind}" for name in ("a", "b")}
        (tmp_path / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": names}))
    for name, file in names.items():
        save({name: torch.ones(2)}, tmp_path / file)
    assert set(read_contents(tmp_path).leaves) == set(names)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model-1.safetensors", "names 'model-1.safetensors', which is not beside it; download it too"),
        ("..", r"names '\.\.', which is not beside it"),
        ("", "names '', which is not beside it"),
        ("a\0b", "which is not beside it"),
        ("x" * 300, r"names 'x+\.\.\.x+', which is not beside it"),
        ("model.safetensors.index.json", "which is a text; download the weights"),
        ("inner", "inner is no regular file"),
        ("../model.safetensors", "names '../model.safetensors', a file outside its folder"),
    ],
)
def test_shards_that_are_not_there(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match=words):
        read_contents(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".metadata", "is a distributed checkpoint; make one file of it"),
        ("zero_to_fp32.py", "is a DeepSpeed checkpoint"),
        ("saved_model.pb", "is a TensorFlow model"),
        ("data.pkl", "is a checkpoint that was unpacked"),
        ("adapter_config.json", "is an adapter without its model"),
        ("epoch=3.ckpt", "give one of its files: epoch=3.ckpt"),
        ("readme", "give the path of a checkpoint"),
    ],
)
def test_any_other_folder_is_named(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=words):
        read_contents(tmp_path)
