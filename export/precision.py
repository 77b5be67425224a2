"""Names of precisions and which stage computes in which. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stages.errors import InputError

STAGES = ("window", "global", "decoder", "whole")
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # as torch and ml_dtypes name them
FP32: Mapping[str, str] = dict.fromkeys(STAGES, "fp32")


def stage_precisions(choices: Sequence[str]) -> dict[str, str]:
    """The precision of each of STAGES from choices like "fp16" (every stage) and "global=bf16" (that one).

    One stage's choice goes before the choice for all, in any order. Raises InputError for any other word and
    for two choices of one thing.
    """
    chosen: dict[str, str] = {}
    for choice in choices:
        stage, _, precision = choice.rpartition("=")
        if precision not in DTYPES or stage not in ("", *STAGES) or ("=" in choice and not stage):
            raise InputError(
                f"--precision {choice!r:.80} is unknown; give one of {', '.join(DTYPES)}, or STAGE=PRECISION "
                f"for one stage of {', '.join(STAGES)}"
            )
        if chosen.setdefault(stage, precision) != precision:
            raise InputError(
                f"--precision gives {stage or 'every stage'} both {chosen[stage]} and {precision}"
            )
    return {stage: chosen.get(stage, chosen.get("", "fp32")) for stage in STAGES}
