#!/usr/bin/env bash
# Runs a small pack (gpu_pack --limit 40) as the other machine will run a large one, in a folder of its own and without
# a GPU: a step or two of each piece. What is missing there is missing here.
#
#   MODEL=mini PYTHON=.venv/bin/python benchmarks/gpu_rehearsal.sh PACK
set -euo pipefail
parts=$(cd "$1" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PYTHON=${PYTHON:-python3} MODEL=${MODEL:-mini} OUT=$scratch/back DEVICE=cpu
export TABLES=mini PICTURES=2 OBJECTS=2 MEASURED_STEPS=4 STEPS=3 PUBLISH_EVERY=5 TRAIN_OPTIONS=${TRAIN_OPTIONS:---device cpu --sizes 1:80}
cd "$scratch"

for part in 1 2; do
    mkdir -p packed/code && cp -r "$parts/$part/." packed/ && tar -xzf packed/code.tar.gz -C packed/code
    if [[ $part = 1 ]]; then pieces="install machine measure"; else pieces="train tables"; fi
    # shellcheck disable=SC2086 # several words
    SECONDS_LEFT=300 packed/code/benchmarks/gpu_all.sh $pieces
done
ls -l back
"$PYTHON" - back/gpu_tables.json <<'END'
import json, sys
with open(sys.argv[1], encoding="utf-8") as file:
    pieces = json.load(file)["pieces"]
measured = [name for name, piece in pieces.items() if "rows" in piece]
print("tables measured:", *measured, sep="\n  ")
for name, piece in pieces.items():
    if "missing" in piece:
        print(f"tables, not measured: {name}: {piece['missing'][:100]}")
assert "ceiling" in measured and {"mini fp16 onnxruntime-cuda", "mini fp16 tensorrt"} <= pieces.keys()
END
cat back/trained.safetensors.part* >trained.safetensors
PYTHONPATH=packed/code:packed/site "$PYTHON" -c 'from pathlib import Path; from export.checkpoints.load import load_weights
weights = load_weights(None, Path("trained.safetensors"))
print("came back:", weights.geometry.name, weights.trained_on)'
