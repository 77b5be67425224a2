"""The edge's part of the bundle, and configuration, secrets and unit: what makes up the version."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from jetson.board.facts import BoardFacts
from jetson.connection import BoardError
from jetson.power import normalised
from jetson.steps.step import Job, Plan, Say, Step, board_versions
from jetson.versions import Service, Version, checksum_lines, make_version
from stages.places import part_files

SYSTEM_BYTES = 1_000_000_000  # of JetPack without a desktop, idle


class BundleStep(Step):
    """Sends the files of the edge's part that the board does not have, and has it verify all of them."""

    name = "bundle"

    def look(self, job: Job) -> Plan:
        job.version = _version(job)
        files = job.version.bundle
        lines = checksum_lines({f"bundle/{name}": digest for name, digest in files.items()})
        size = sum((job.bundle.path / name).stat().st_size for name in files)
        what = f"{job.bundle.description}, {len(files)} files, {size / 1e6:.0f} MB"
        complete = job.board.script("versions.sh", "verify", job.id, stdin=lines).status == 0
        if complete and board_versions(job.board).get("current") == job.id:
            return Plan(f"{what}: version {job.id} has them, which is the board's")
        return Plan(what, f"begin version {job.id} and send what the board lacks of it")

    def do(self, job: Job, say: Say) -> str:
        files = job.made.bundle
        lines = checksum_lines(files)
        job.run("versions.sh", "begin", job.id, what="~/pedsam cannot be written")
        listed = job.run("versions.sh", "bundle", job.id, what="the bundle cannot be compared", stdin=lines)
        wanted = [line.partition(" ")[2] for line in listed.out.splitlines() if line.startswith("wanted ")]
        if wanted:
            self._send(job, wanted, say)
        verified = checksum_lines({f"bundle/{name}": digest for name, digest in files.items()})
        job.run("versions.sh", "verify", job.id, what="the bundle arrived damaged", stdin=verified)
        return f"sent {len(wanted)} of {len(files)} files; all verified on the board"

    def _send(self, job: Job, wanted: Sequence[str], say: Say) -> None:
        with _tar_file(job.bundle.path, wanted, "bundle") as tar:
            say(f"sending {len(wanted)} files, {os.fstat(tar.fileno()).st_size / 1e6:.0f} MB")
            job.run("versions.sh", "put", job.id, what="the bundle cannot be sent", stdin=tar)


class SecretsStep(Step):
    """Configuration, tokens, keys and the service's unit; files that only their owner reads."""

    name = "secrets"

    def look(self, job: Job) -> Plan:
        version = job.made
        secrets = sum(name.startswith("keys/") for name in version.files)
        what = f"edge.toml, sites.toml and {secrets} files of keys and tokens"
        if job.board.script("versions.sh", "verify", job.id, stdin=version.checksums()).status:
            return Plan(what, "write them on the board, readable by their owner alone")
        return Plan(f"{what}: version {job.id} has them")

    def do(self, job: Job, say: Say) -> str:
        version = job.made
        job.run("versions.sh", "put", job.id, what="the configuration cannot be sent", stdin=version.tar())
        job.run(
            "versions.sh",
            "verify",
            job.id,
            what="the configuration arrived damaged",
            stdin=version.checksums(),
        )
        return f"written and verified, {len(version.files)} files"


def _version(job: Job) -> Version:
    options, facts = job.options, job.facts
    service = None
    if not options.no_root:
        power = normalised(options.power) if options.power else None
        service = Service(facts.user, f"{facts.home}/pedsam", power)
    files = {file.name: file.sha256 for file in part_files(job.bundle, "edge")}
    memory = memory_mb(facts)
    return make_version(
        job.edge, files, job.image, memory, service, allow_undistilled=options.allow_undistilled
    )


def memory_mb(facts: BoardFacts) -> int:
    """The most memory the container may take, in MB: what is left when the system has its own."""
    if facts.memory.total_bytes is None:
        raise BoardError("the board does not say how much memory it has (/proc/meminfo)")
    return (facts.memory.total_bytes - SYSTEM_BYTES) // 2**20


def _tar_file(folder: Path, names: Iterable[str], below: str) -> IO[bytes]:
    """A temporary file that holds these files of a folder as a tar; closed, it is gone."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  (the caller closes it)
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in names:
            tar.add(folder / name, f"{below}/{name}", filter=_plain)
    file.seek(0, io.SEEK_SET)
    return file


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o600
    return entry
