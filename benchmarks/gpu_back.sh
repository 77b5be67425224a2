#!/usr/bin/env bash
# Weights of MODEL (mini, or what else was trained) that came back from the GPU: put together, exported, and measured on
# pictures that no training saw.
#
#   MODEL=small PYTHON=.venv/bin/python benchmarks/gpu_back.sh FOLDER [HELDOUT [OPTION OF EVALUATE ...]]
set -euo pipefail
back=$(cd "$1" && pwd)
data=${2:-../shared/data/heldout}
python=${PYTHON:-python3}
out=${OUT:-out/gpu}
model=${MODEL:-mini}
cd "$(dirname "$0")/.."
mkdir -p "$out"
cat "$back"/trained.safetensors.part* >"$out/trained.safetensors"
mkdir -p "$out/logs" && tar -xzf "$back/logs.tar.gz" -C "$out/logs"
rm -rf "$out/bundle"
"$python" -m pedsam export --model "$model" --checkpoint "$out/trained.safetensors" --compact --out "$out/bundle"
"$python" -m pedsam evaluate --bundle "$out/bundle" --data "$data" --prompts point,box --no-sheet --out "$out/evaluation" "${@:3}"
"$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["miou"])' "$out/evaluation/report.json"
case $model in
mini) echo "to ship them: make shipped WEIGHTS=$out/trained.safetensors, then python -m benchmarks.accuracy --shipped stages/mini ..." ;;
*) echo "to ship them: cp $out/trained.safetensors assets/$model.safetensors, then python -m benchmarks.accuracy --shipped $out/bundle ..." ;;
esac
