#!/bin/sh
# What is measured on a GPU, in parts, most important first; every row is written as it is found, so that what is cut off loses nothing.
#
#     python benchmarks/gpu/pack.py                  # once, anywhere: wheels, rows, data into .gpu, which git ignores
#     SULCNET_TABLES=tables sh benchmarks/gpu.sh A   # about five minutes: self-test, memory, out of memory, seconds per step
#     SULCNET_TABLES=tables sh benchmarks/gpu.sh B   # about five minutes: learning, the demo, the loader
#     SULCNET_TABLES=tables sh benchmarks/gpu.sh memory --most 5         # a part alone, with flags of its own
#
# tables/tables.md is for docs/benchmarks.md, tables/rows.tsv for programs. PYTHON chooses the interpreter, SULCNET_PACK the
# pack. What the interpreter lacks is installed from the pack into a temporary folder.
set -eu
cd "$(dirname "$0")/.."
: "${SULCNET_TABLES:?names the folder of the tables}"
PYTHON=${PYTHON:-python3}
PACK=${SULCNET_PACK:-.gpu}
export SULCNET_TABLES SULCNET_CACHE="${SULCNET_CACHE:-$PACK/cache}" PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

if ! "$PYTHON" -c "import monai, nibabel, blosc2, acvl_utils" 2>/dev/null; then
    site=$(mktemp -d)
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$PACK"/wheels/*.whl
    export PYTHONPATH="$PYTHONPATH:$site"
fi

part() {                                           # SECONDS PART FLAGS...
    limit=$1; shift
    code=0
    timeout -k 10 "$limit" "$PYTHON" benchmarks/gpu/run.py "$@" --pack "$PACK" || code=$?
    [ "$code" = 0 ] || echo "gpu.sh: $1 ended with $code (124: its $limit seconds were over)"
}

case "${1:-}" in
    A) shift
       part 45 selftest "$@"; part 125 memory "$@"; part 25 out_of_memory "$@"; part 85 speed --no-loader "$@"; part 25 convolutions "$@" ;;
    B) shift
       part 155 learning "$@"; part 75 demo "$@"; part 70 speed "$@" ;;
    "") echo "give A, B or a part"; exit 2 ;;
    *) part 600 "$@" ;;
esac
