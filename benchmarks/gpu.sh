#!/bin/sh
# Everything that is measured on a GPU, in one call; its tables go into docs/benchmarks.md with GPU and date.
#
#     sh benchmarks/gpu.sh                    # about ten minutes
#     PYTHON=.venv/bin/python sh benchmarks/gpu.sh

set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

echo "## Memory: foreseen against what the allocator handed out and took"
$PYTHON benchmarks/memory.py --device cuda
echo
echo "## Tuning strategies: predicted bytes against measured ones, and step times"
$PYTHON benchmarks/tuning.py --device cuda --time 96 --images 2 --precision bf16
echo
echo "## Pre-training methods: one epoch"
$PYTHON benchmarks/pretraining.py --device cuda --net swin_unetr_24 --features 24 --patch 64 --workers 8
$PYTHON benchmarks/pretraining.py --device cuda --net resenc_unet --features 32 --patch 64 --workers 8
echo
echo "## A short real training on phantoms"
$PYTHON -c "from sulcnet.cli.demo import COMMAND; raise SystemExit(COMMAND())" --device cuda --root "$(mktemp -d)"
