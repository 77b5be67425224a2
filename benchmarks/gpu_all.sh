#!/usr/bin/env bash
# Everything that needs a GPU, unattended, most important first. Each piece resumes where a killed run left it,
# and leaves what it made under $OUT as it goes, in few and small files: weights in fp16, logs and curves in one archive.
# Pictures: build/train (python -m benchmarks.pack_data). MobileSAM's checkpoint: build/mobile_sam.pt. Packages: those of the extra `train`; for `stages`
# onnxruntime-gpu in place of onnxruntime, and for its rows of TensorRT the module tensorrt and pycuda.
#
#   OUT=results MINUTES=9 benchmarks/gpu_all.sh [PIECE ...]
#
# A run ends after MINUTES; call it again until it says "all pieces are done".
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-out/gpu}
until=$((SECONDS + 60 * ${MINUTES:-9}))
train_steps=${TRAIN_STEPS:-12000}
distill_steps=${DISTILL_STEPS:-4000}
teach_steps=${TEACH_STEPS:-12000}
pictures=${PICTURES:-64}
python=${PYTHON:-python3}
mkdir -p "$out" build/gpu

halve='
import sys
from pathlib import Path
from export.sam import load_weights, save_weights
weights = load_weights(None, Path(f"build/gpu/{sys.argv[1]}.safetensors"))
half = Path(f"build/gpu/{sys.argv[1]}.half.safetensors")
save_weights(weights.sam.half().state_dict(), half, weights.status, weights.trained_on)'

# COMMAND NAME STEPS OPTIONS: `pedsam train` or `distill` into build/gpu/NAME.safetensors, until it is complete.
learn() {
    local command=$1 name=$2 steps=$3
    shift 3
    [[ -e build/gpu/$name.done ]] && return
    local left=$((until - SECONDS))
    ((left > 20)) || { echo "time is up before $name is complete; call again"; exit 0; }
    "$python" -m pedsam "$command" --out "build/gpu/$name.safetensors" --steps "$steps" --pictures "$pictures" \
        --accumulate 1 --objects 8 --seconds "$left" "$@" 2>&1 | tee -a "build/gpu/$name.log"
    "$python" -c "$halve" "$name"
    split -b 15M -d "build/gpu/$name.half.safetensors" "$out/$name.safetensors.part" # cat puts it together again
    (cd build/gpu && tar -czf - ./*.log ./*.curve.*) >"$out/logs.tar.gz"
    if tail -n 1 "build/gpu/$name.log" | grep -q complete; then touch "build/gpu/$name.done"; fi
}

machine() { # what the numbers of this run were measured on
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/machine.txt" || true
    "$python" -c 'import torch; print("torch", torch.__version__, torch.cuda.is_available())' | tee -a "$out/machine.txt"
}

stages() { # speed of every stage, beside segment_anything's encoder
    local left=$((until - SECONDS - 60)) # a piece under way ends within a minute or so
    ((left > 0)) || { echo "time is up before the stages are measured; call again"; exit 0; }
    "$python" -m benchmarks.gpu_stages --out build/gpu/gpu_stages.json --seconds "$left" 2>&1 | tee build/gpu/stages.log
    cp build/gpu/gpu_stages.json "$out/"
    ! grep -q "time is up" build/gpu/stages.log || exit 0
}

# mini as it is shipped: first MobileSAM's image embeddings, then masks.
taught() {
    learn distill taught "$teach_steps" --checkpoint build/mobile_sam.pt --model mini --init assets/mini.safetensors \
        --images build/train --rate 1.5e-3 --sizes 0.4:224,0.6:384
}
taught_masks() {
    learn train taught_masks "$teach_steps" --model mini --init build/gpu/taught.safetensors --no-hints \
        --data build/train --rate 1e-3
}

# The teacher; what it learns; and as many further steps for the teacher itself, to compare like with like.
fine=(--rate 1e-3 --sizes 0.3:240,0.7:384)
teacher=build/gpu/original.safetensors
original() { learn train original "$train_steps" --model mini --data build/train --order original --rate 3e-3; }
distilled() { learn distill distilled "$distill_steps" --checkpoint $teacher --images build/train --masks build/train "${fine[@]}"; }
original_longer() {
    learn train original_longer "$distill_steps" --model mini --data build/train --order original --init $teacher "${fine[@]}"
}

for piece in ${@:-machine stages taught taught_masks original distilled original_longer}; do "$piece"; done
echo "all pieces are done"
