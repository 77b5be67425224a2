"""Names of precisions and which stage computes in which. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stages.errors import InputError
from stages.hidden import HEAD

STAGES = ("window", "global", "decoder", "whole")
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # as torch and ml_dtypes name them
SAFEST_LAST = ("fp16", "bf16", "fp32")
FP32: Mapping[str, str] = dict.fromkeys((HEAD, *STAGES), "fp32")


def stage_precisions(choices: Sequence[str], head: bool = False) -> dict[str, str]:
    """The precision of each of STAGES, and of HEAD where there is a `head`.

    Choices are like "fp16" (every stage) and "global=bf16" (that one). One stage's choice goes before the
    choice for all, in any order. `whole` has the layers of the encoder's other stages: not named, it takes
    the safest of their precisions. Raises InputError for any other word and for two choices of one thing.
    """
    stages = (HEAD, *STAGES) if head else STAGES
    chosen: dict[str, str] = {}
    for choice in choices:
        stage, _, precision = choice.rpartition("=")
        if precision not in DTYPES or stage not in ("", *stages) or ("=" in choice and not stage):
            raise InputError(
                f"--precision {choice!r:.80} is unknown; give one of {', '.join(DTYPES)}, or STAGE=PRECISION "
                f"for one stage of {', '.join(stages)}"
            )
        if chosen.setdefault(stage, precision) != precision:
            what = stage or "every stage"
            raise InputError(f"--precision gives {what} both {chosen[stage]} and {precision}; give one")
    found = {stage: chosen.get(stage, chosen.get("", "fp32")) for stage in stages}
    if "whole" not in chosen:
        encoder = (found[stage] for stage in stages if stage not in ("decoder", "whole"))
        found["whole"] = max(encoder, key=SAFEST_LAST.index)
    return found
