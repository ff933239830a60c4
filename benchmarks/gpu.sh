#!/usr/bin/env bash
# All that a rented machine with a device is asked, in one command; nothing is installed there.
#
#   python -m benchmarks.gpu_cases .gpu --isa sm_90     # before, where the extra `cuda` is
#   benchmarks/gpu.sh .gpu "$OUT"                       # there: a checkout, .gpu, NumPy, a driver
#
# DOUBLE=1 benchmarks/gpu.sh .gpu OUT tries all of it where there is no device: the driver double
# and the simulator, which leave out what is too large for them. Results are lines of OUT/results.jsonl, each on disk before the next step begins. The status is 0
# if every bit was the CPU's and no tool found a fault.
set -uo pipefail
cases=${1:?the folder that benchmarks.gpu_cases wrote} out=${2:?where results go}
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
{ nvidia-smi 2>&1 || echo "no nvidia-smi"; } > "$out/nvidia-smi.txt"
module=benchmarks.gpu
[ -z "${DOUBLE:-}" ] || module=tests.support.cuda_machine
exec timeout 500 "${PYTHON:-python3}" -m "$module" run "$cases" --out "$out"
