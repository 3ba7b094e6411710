#!/usr/bin/env bash
# Every model on a GPU, in one call of at most 8 minutes: bash benchmarks/gpu.sh [--smoke]
#
# Cells per second, utilisation and memory in single precision and bf16, both stages of APOLLO at
# the shape of SHARE-seq, and images. Writes gpu.md to $OUT, by default benchmarks/results; with
# --smoke a tiny run, also without a GPU, whose report goes to a temporary folder. PYTHON names the
# interpreter.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python="${PYTHON:-python}"
accelerator=gpu
images=(--cells 8000 --side 128 --steps 100)
seconds=290
image_seconds=90
out="${OUT:-results}"
if [[ "${1:-}" == --smoke ]]; then
    "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" || accelerator=cpu
    images=(--cells 200 --side 16 --batch-size 16 --steps 4 --threads 1)
    out="${OUT:-$(mktemp -d)}"
fi
mkdir -p "$out"
report="$(cd "$out" && pwd)/gpu.md"

failed=0
timeout "$((seconds + 20))" "$python" gpu.py --accelerator "$accelerator" --seconds "$seconds" \
    --out "$report" "$@" || failed=1
printf '\n## Images\n' >> "$report"
for precision in 32-true bf16-mixed; do
    timeout "$image_seconds" "$python" apollo/images_speed.py "${images[@]}" --modes "plain loop" memory \
        --accelerator "$accelerator" --precision "$precision" --out "$report" || failed=1
done
echo "wrote $report"
exit "$failed"
