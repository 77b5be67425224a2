"""The kinds of faults there are, and which of them are drawn."""

from __future__ import annotations

from dataclasses import dataclass

# What the proxy does to answers of a site.
ANSWERS = (
    "stall",  # the request is taken and never answered
    "cut_request",  # the connection ends before the site has the request
    "cut_answer",  # the connection ends in the middle of the answer
    "drip",  # the answer comes a few bytes at a time
    "nan",
    "shape",
    "dtype",
    "json",  # a header that is none
    "busy",  # 503 with an odd Retry-After
    "headers",  # bytes in the head that HTTP does not know
    "error_text",  # 500 with a text that steers terminals
    "other_digest",  # the site names other weights
    "other_weights",  # it names the right ones and computes with others
    "refused",  # 412: it was restarted with other weights
    "redirect",
)
# What is done to the process of a site.
PROCESSES = (
    "kill",
    "restart",  # killed, and started again
    "terminate",  # SIGTERM, and started again
    "stop",  # SIGSTOP until the run has ended
    "pause",  # SIGSTOP, and continued
    "late",  # stopped before the edge starts, and continued
    "absent",  # killed before the edge starts
    "json_process",  # the process that reads its large JSON is killed
)
LEDGER = ("ledger_damaged", "ledger_deleted", "ledger_replaced", "ledger_unwritable")
EDGE = ("edge_killed", "sigterm", "disk_full")
# Answers that look right.
LIES = ("another_tile", "zeros", "noise")

HONEST = (*ANSWERS, *PROCESSES, *LEDGER, *EDGE)
KINDS = (*HONEST, *LIES)
DRAWN = KINDS

AT_START = -1


@dataclass(frozen=True)
class Fault:
    """One fault of a plan.

    `site` is a site's name, empty for the edge, its ledger and its disk. It begins once so many windows of
    the film (`after`) have reached that site, or all sites together; AT_START: before the edge starts. What
    is done to answers is done to the next `count` of them. `value`, 0 to 1, picks a variant or a duration.
    """

    kind: str
    site: str
    after: int
    count: int
    value: float

    @property
    def distorts(self) -> bool:
        """Whether the proxy does it, to answers."""
        return self.kind in ANSWERS or self.kind in LIES
