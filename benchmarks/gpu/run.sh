#!/usr/bin/env bash
# Parity, accuracy and speed of the cuda dialect on this machine's first GPU, installed from a folder of wheels alone.
#   benchmarks/gpu/run.sh WHEELS [WORK] [further arguments of python -m benchmarks.gpu]
# docs/gpu.md says how the folder is filled where there is a registry. One JSON is written into benchmarks/results/.
set -euo pipefail

if [ $# -lt 1 ] || [ ! -d "$1" ]; then
    echo "usage: $0 WHEELS [WORK] [arguments]; WHEELS is a folder of wheels, see docs/gpu.md" >&2
    exit 2
fi
wheels=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/../.." && pwd)
work=${2:-"$root/.gpu-benchmark"}
shift $(($# < 2 ? $# : 2))
mkdir -p "$work"
if [ ! -x "$work/venv/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$work/venv"
fi
"$work/venv/bin/python" -m pip install --quiet --no-index --find-links "$wheels" \
    "fathom-client" "fathom-server[gpu]" "fathom-export" "onnxruntime-gpu[cuda,cudnn]" torch transformers psutil
cd "$root"
# ONNX Runtime finds CUDA's libraries where torch's wheels have put them
exec "$work/venv/bin/python" -m benchmarks.gpu --work "$work" "$@"
