"""Telling from what TensorRT, CUDA, onnxruntime and the Jetson's drivers print that memory ran out.

They have many words for it, and the commonest on a small board names no memory at all: a builder that has too
little for every kernel of a node reports that it could not find any implementation for that node.
"""

from __future__ import annotations

import re

_SIGNS = re.compile(
    r"out of ?memory|outofmemory|bad_alloc|(cannot|failed to) allocate memory|memoryallocation"
    r"|posixthread.*pthread_create failed"  # onnxruntime: no room for a thread's stack
    r"|insufficient (device )?memory|memory is insufficient"
    r"|could not find any implementation for node"
    r"|decreasing the workspace size|insufficient workspace"
    r"|increas\w* the (allowed )?workspace size|within workspace limit"
    r"|nvmap\w*: .*error 12\b|nvmapmemhandlealloc: error"  # 12 is ENOMEM
    r"|cuda(runtime)? error:? 2\b"  # cudaErrorMemoryAllocation
    r"|engine could not be created from network"  # trtexec's last line, after any of the above
    r"|^killed$",  # what a shell says of a process that Linux ended for its memory
    re.IGNORECASE | re.MULTILINE,
)

_MORE_WORKSPACE = re.compile(
    r"increas\w* the (allowed )?workspace size|within workspace limit", re.IGNORECASE
)
_REQUESTED = re.compile(r"requested size was (\d+) bytes", re.IGNORECASE)


def says_out_of_memory(text: str) -> bool:
    """Whether a library's message, or what a process wrote to its standard error, is about memory."""
    return _SIGNS.search(text) is not None


def wants_more_workspace(text: str, workspace_bytes: int | None) -> bool:
    """Whether what ran out is the limit that was set for the builder, so that less of it cannot help."""
    if workspace_bytes is None:
        return False
    requested = [int(size) for size in _REQUESTED.findall(text)]
    return _MORE_WORKSPACE.search(text) is not None or max(requested, default=0) > workspace_bytes
