#!/usr/bin/env bash
# What needs a GPU, from what `make gpu-pack` put together, on a machine that reaches no network and has torch, timm,
# accelerate and safetensors. Each piece leaves what it made under $OUT as it goes, in few and small files.
#
#   OUT=results SECONDS_LEFT=560 benchmarks/gpu_all.sh PIECE ...
#
# install  the wheels that were packed
# machine  what the numbers are measured on
# measure  some steps of training, part by part
# train    MODEL from the packed weights, by masks and by MobileSAM's image embeddings, in SECONDS_LEFT seconds
# stages   speed of the stages of every model, in torch alone
# tables   what each stage takes by onnxruntime's CUDA provider and TensorRT for RTX, where their libraries are, beside
#          torch and segment_anything: TABLES of models, 4 minutes at most, each row kept as it is measured
# engines  onnxruntime's CUDA provider: the tests marked gpu, and the speed of mini's stages (needs make gpu-pack-engines)
set -euo pipefail
code=$(cd "$(dirname "$0")/.." && pwd)
packed=${PACKED:-$(dirname "$code")} # the folder that make gpu-pack's parts were copied into
out=${OUT:-$packed/out}
python=${PYTHON:-python3}
model=${MODEL:-mini}
pictures=${PICTURES:-64}
objects=${OBJECTS:-8}
rate=${RATE:-2e-3}
enlarges=${ENLARGES:-2}
taught=${TAUGHT:-0.5}
decoder_share=${DECODER_SHARE:-0.3}
most_steps=${STEPS:-20000}
measured_steps=${MEASURED_STEPS:-36}
measure_limit=${MEASURE_LIMIT:-120}
left=${SECONDS_LEFT:-560}
tiles=${TILES:-dct:15/6} # what travels, in the loop of training; the start weights may know nothing of it
components=${COMPONENTS:-64}
read -ra more <<<"${TRAIN_OPTIONS:-}"
mkdir -p "$out" "$packed/runs"
export PYTHONPATH=$code:$packed/site PYTHONUNBUFFERED=1 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
cd "$code"

install() { "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$packed/site" "$packed"/wheels/*.whl; }

machine() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv | tee "$out/machine.txt" || true
    "$python" - <<'END' | tee -a "$out/machine.txt"
from importlib.metadata import version
import torch
print("CUDA:", torch.cuda.is_available(), *(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "accelerate")))
END
    nproc | tee -a "$out/machine.txt"
}

# NAME STEPS LIMIT OPTION ...: `pedsam train` into runs/NAME.safetensors, logged in runs/NAME.log, killed after LIMIT s.
learn() {
    local name=$1 steps=$2 limit=$3
    shift 3
    timeout "$limit" "$python" -m pedsam train --model "$model" --no-hints --init "$packed/init.safetensors" --teacher "$packed/mobile_sam.pt" \
        --teacher-enlarges "$enlarges" --taught "$taught" --decoder-share "$decoder_share" \
        --data "$packed/train" --pictures "$pictures" --objects "$objects" --rate "$rate" --steps "$steps" --half \
        --tiles "$tiles" --components "$components" \
        --out "$packed/runs/$name.safetensors" "$@" "${more[@]}" 2>&1 | tee -a "$packed/runs/$name.log"
}

measure() {
    rm -f "$packed"/runs/measured.*
    learn measured "$measured_steps" "$measure_limit" || true
    publish measured || true
}

# Weights, whole again by cat, and logs of all runs; by rename, since the machine may go at any moment.
publish() {
    local name=$1 half=$packed/runs/$1.safetensors
    mkdir -p "$packed/publishing"
    if [[ -e $half ]]; then split -b 15M -d "$half" "$packed/publishing/$name.safetensors.part"; fi
    (cd "$packed/runs" && find . -name '*.log' -o -name '*.curve.*' | tar -czf "$packed/publishing/logs.tar.gz" -T -)
    mv "$packed"/publishing/* "$out/"
}

train() {
    local until=$((SECONDS + left))
    (while sleep "${PUBLISH_EVERY:-45}"; do publish trained || true; done) &
    local keeper=$!
    # A run that fails goes on from where its state was saved, with fewer pictures, which take less memory.
    if ! learn trained "$most_steps" $((left + 30)) --budget "$left" && ((until - SECONDS > 30)); then
        pictures=$((pictures / 2))
        learn trained "$most_steps" $((until - SECONDS + 30)) --budget $((until - SECONDS)) || true
    fi
    kill $keeper
    publish trained || true
}

# OPTION ...: rows of the stages' speed, each kept as it is measured.
speed() {
    "$python" -m benchmarks.gpu_stages --out "$out/gpu_stages.json" --bundles "$packed/bundles" --seconds "$left" "$@" 2>&1 |
        tee -a "$out/stages.log"
}

stages() { speed --backend torch; }

# A model is not begun after three of the four minutes; what takes longer than that is cut off.
tables() {
    local name models=()
    for name in ${TABLES:-mini vit_b}; do models+=(--model "$name"); done
    timeout --signal INT --kill-after 10 230 "$python" -m benchmarks.gpu_stages --out "$out/gpu_tables.json" \
        --bundles "$packed/bundles" --seconds 180 --device "${DEVICE:-cuda}" "${models[@]}" \
        --backend onnxruntime-cuda --backend tensorrt --backend torch 2>&1 | tee -a "$out/tables.log" ||
        echo "tables: cut off after 230 s, or failed; gpu_tables.json holds what was done"
}

engines() {
    "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$packed/site" "$packed"/engines/*.whl
    LD_LIBRARY_PATH=$("$python" -c 'import nvidia, pathlib
print(*{str(p.parent) for root in nvidia.__path__ for p in pathlib.Path(root).rglob("lib*.so.*")}, sep=":")')
    export LD_LIBRARY_PATH
    "$python" -m pytest -q -m gpu -W ignore -o cache_dir="$packed/cache" tests/gpu tests/training 2>&1 |
        tee "$out/tests.log" || true
    speed --model mini --backend onnxruntime-cuda --backend torch
}

for piece in "$@"; do
    echo "== $piece, $SECONDS s"
    "$piece"
done
echo "== done, $SECONDS s"
