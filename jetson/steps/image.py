"""Bring the container's image to the board: built there from this clone, or sent from here."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from jetson.board.checks import check_disks
from jetson.board.findings import refused, sentence
from jetson.connection import BoardError
from jetson.steps.step import Job, Plan, Say, Step
from jetson.versions import tar_of
from stages.bundle import sha256
from stages.errors import InputError, printable

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = "Dockerfile.jetson"
REPOSITORY = "pedsam-flashed"
# What the image takes uncompressed, for the check of free space before it is built or sent.
IMAGE_BYTES = 4_000_000_000  # about 3.0 GB by computation
BUILD_BYTES = 12_000_000_000  # with NVIDIA's image, from which it takes TensorRT


class ImageStep(Step):
    """The image's tag says what it was made from, so that the same thing is not built or sent twice."""

    name = "image"

    def look(self, job: Job) -> Plan:
        given = job.options.image
        if given is None:
            name, todo = _context_hash(), "build it on the board from this clone"
        elif Path(given).is_file():
            name, todo = sha256(Path(given))[:12], f"send {given}"
        elif image_here := _id_here(given):
            name, todo = _short(image_here), f"send {given}"
        elif on_board := _on_board(job, given):
            name, todo = on_board.id, f"take {given}, which is on the board"
        else:
            raise InputError(
                f"image {given} is neither a file nor an image of docker, here or on {job.board.address}; "
                "give the file of a `docker save`, or leave --image away to build it there"
            )
        job.image = f"{REPOSITORY}:{name}"
        if found := _on_board(job, job.image):
            return Plan(f"{job.image} is there ({found.bytes / 1e9:.1f} GB)")
        if not todo.startswith("take"):
            _check_room(job, BUILD_BYTES if given is None else IMAGE_BYTES)
        return Plan(f"{job.image} is not there", todo)

    def do(self, job: Job, say: Say) -> str:
        given = job.options.image
        if given is None:
            job.run("image.sh", "build", job.image, what=_FAILED, stdin=build_context(), on_line=say)
            return f"built {job.image}"
        if Path(given).is_file():
            with Path(given).open("rb") as file:
                job.run("image.sh", "load", job.image, what=_FAILED, stdin=file, on_line=say)
        elif image_here := _id_here(given):
            self._send(job, image_here, say)
        else:
            job.run("image.sh", "tag", job.image, given, what=_FAILED)
            return f"{given} of the board is {job.image}"
        return f"sent {given} as {job.image}"

    def _send(self, job: Job, image: str, say: Say) -> None:
        """`docker save` of this ID here into `docker load` there; nothing is stored between."""
        line = ["docker", "save", image]
        with subprocess.Popen(line, stdout=subprocess.PIPE) as saving:
            try:
                job.run("image.sh", "load", job.image, what=_FAILED, stdin=saving.stdout, on_line=say)
            finally:
                saving.kill()
        if saving.returncode not in (0, -9):
            raise BoardError(f"docker save {image} failed here with status {saving.returncode}")


_FAILED = "the image cannot be made"


def _check_room(job: Job, image_bytes: int) -> None:
    """Raise BoardError when the image cannot fit on the board's disk."""
    found = check_disks(job.facts, replace(job.wanted, image_bytes=image_bytes))
    if hindrance := refused(found):
        raise BoardError(sentence(hindrance))


@dataclass(frozen=True)
class _Image:
    """The first characters of an image's ID, and its size on the disk."""

    id: str
    bytes: int


def _on_board(job: Job, tag: str) -> _Image | None:
    words = job.board.script("image.sh", "show", tag).out.split()
    return _Image(_short(words[0]), int(words[1])) if words else None


def _id_here(tag: str) -> str:
    """The ID of an image of this machine's docker, "" where there is none."""
    line = ["docker", "image", "inspect", "--format", "{{.Id}}", tag]
    try:
        done = subprocess.run(line, capture_output=True, encoding="utf-8", errors="replace", check=False)
    except FileNotFoundError:  # docker is not installed here
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _short(digest: str) -> str:
    return printable(digest.removeprefix("sha256:")[:12])


def build_context() -> bytes:
    """Everything that Dockerfile.jetson copies, and itself, as a tar. Raises InputError outside a clone."""
    return tar_of(
        {
            name: (path.read_bytes(), 0o755 if path.suffix == ".sh" else 0o644)
            for name, path in _context_files().items()
        }
    )


def _context_hash() -> str:
    digest = hashlib.sha256()
    for name, path in sorted(_context_files().items()):
        digest.update(f"{name} {sha256(path)}\n".encode())
    return digest.hexdigest()[:12]


def _context_files() -> dict[str, Path]:
    """Files by their name in the context: those that .dockerignore admits and does not leave out again."""
    ignore = ROOT / ".dockerignore"
    if not (ROOT / DOCKERFILE).is_file() or not ignore.is_file():
        raise InputError(
            f"{ROOT} holds no {DOCKERFILE}: the image is built from a clone of pedsam; install with "
            "pip install -e from one, or give --image"
        )
    lines = ignore.read_text(encoding="utf-8").splitlines()
    admitted = [line[1:] for line in lines if line[:1] == "!"]
    left_out = [ROOT / line for line in lines if line[:1] not in ("!", "*")]
    found = {DOCKERFILE: ROOT / DOCKERFILE}
    for name in admitted:
        top = ROOT / name
        paths = sorted(top.rglob("*")) if top.is_dir() else [top]
        found |= {
            str(path.relative_to(ROOT)): path
            for path in paths
            if path.is_file() and "__pycache__" not in path.parts and not {*path.parents} & {*left_out}
        }
    return found
