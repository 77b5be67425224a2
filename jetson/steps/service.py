"""Make the version the board's service: the last step, since it replaces what ran before."""

from __future__ import annotations

from collections.abc import Mapping

from jetson.connection import Board, BoardError
from jetson.steps.step import Job, Plan, Say, Step, board_versions

HEALTHY_S = 180  # from the start of the container to the first heartbeat seen: engines load, sites are probed
_REASON = "reason: "  # what service.sh says before it
_UNHEALTHY = 3  # a status of service.sh


class ServiceStep(Step):
    """A systemd unit; with --no-root a container that docker itself starts again."""

    name = "service"

    def look(self, job: Job) -> Plan:
        status = service_status(job.board)
        completed = board_versions(job.board).get("pending") != job.id
        if completed and status.get("version") == job.id and is_healthy(status):
            return Plan(f"version {job.id} runs and is healthy")
        running = status.get("version")
        found = (
            f"version {running} is {status.get('health', 'not running')}" if running else "no version runs"
        )
        how = "by docker" if job.options.no_root else "by systemd"
        return Plan(found, f"start version {job.id} {how}, now and whenever the board starts")

    def do(self, job: Job, say: Say) -> str:
        ran = job.board.script("service.sh", "switch", job.id, str(HEALTHY_S), on_line=say)
        if ran.status == 0:
            return f"version {job.id} runs and is healthy"
        why = "does not get healthy" if ran.status == _UNHEALTHY else "cannot be started"
        told = [line for line in ran.out.splitlines() if line.startswith(_REASON)]
        reason = told[-1].removeprefix(_REASON) if told else ran.last_line
        raise BoardError(
            f"version {job.id} {why} on {job.board.address} ({reason}); "
            f"{_what_runs(job.board)}; see `pedsam board logs {job.board.address}`",
            ran.out + ran.err,
        )


def _what_runs(board: Board) -> str:
    status = service_status(board)
    if "version" not in status:
        return "nothing runs, as before"
    if status.get("container") == "running":
        return f"version {status['version']} runs again"
    return f"version {status['version']} is the board's again, and does not run"


def is_healthy(status: Mapping[str, str]) -> bool:
    """Whether the service moves, and has finished a frame."""
    return status.get("health") == "healthy" and status.get("frames", "0") != "0"


def service_status(board: Board) -> dict[str, str]:
    """What service.sh says of the service: version, unit, container, health, restarts, since."""
    lines = board.script("service.sh", "status").out.splitlines()
    pairs = (line.partition(" ") for line in lines)
    return {name: value for name, _, value in pairs if value}
