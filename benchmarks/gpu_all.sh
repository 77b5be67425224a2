#!/usr/bin/env bash
# Everything that needs a GPU, unattended, most important first. Each piece resumes where a killed run left it,
# and leaves what it made under $OUT as it goes. Pictures: build/train.npz (python -m benchmarks.pack_data).
#
#   OUT=results SECONDS_EACH=270 benchmarks/gpu_all.sh [PIECE ...]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-out/gpu}
seconds=${SECONDS_EACH:-270} # a piece stops then; run the script again to go on
steps=${STEPS:-12000}
pictures=${PICTURES:-128}
python=${PYTHON:-python3}
mkdir -p "$out" build/gpu

pedsam() { "$python" -c 'import pedsam; pedsam.main()' "$@"; }

# One training piece: NAME, then further options of `pedsam train`.
train() {
    local name=$1
    shift
    pedsam train --model mini --data build/train.npz --out "build/gpu/$name.safetensors" \
        --steps "$steps" --pictures "$pictures" --seconds "$seconds" "$@" 2>&1 | tee -a "$out/$name.log"
    split -b 15M -d "build/gpu/$name.safetensors" "$out/$name.safetensors.part" # cat puts it together again
}

machine() { # what the numbers of this run were measured on
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/machine.txt" || true
    "$python" -c 'import torch; print("torch", torch.__version__, torch.cuda.is_available())' | tee -a "$out/machine.txt"
}

original() { train original --order original; } # the teacher, and the line every retention is measured against
distilled() { train distilled --order reordered --init build/gpu/original.safetensors \
    --teacher build/gpu/original.safetensors; }
reordered() { train reordered --order reordered; } # the same time from scratch, without a teacher

for piece in "${@:-machine original distilled reordered}"; do
    for each in $piece; do "$each"; done
done
