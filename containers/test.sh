#!/usr/bin/env bash
# Build the image and use it as a strict cluster would: a user that nobody knows, read-only, no network, no
# capabilities, 64 MB of shared memory. `make container-test` runs it; it starts from nothing.
#
#   ENGINE=podman     instead of what is found (Docker, then Podman)
#   TORCH_INDEX=URL   another build of torch, such as the small one without CUDA
#   SLIM=1            test the smaller image
#   DATA=FOLDER       a raw dataset (../shared/data/hippocampus/...; else phantoms); its first CASES (16) are used
#   WORK=FOLDER       keep store, logs and results there, and take up what an earlier run built
set -euo pipefail
cd "$(dirname "$0")/.."
image=localhost/sulcnet:test user=12345:23456 passed=0 failed=0 build_flags=()
DATA=${DATA:-../shared/data/hippocampus/Dataset004_Hippocampus}

if [ -n "${WORK:-}" ]; then mkdir -p "$WORK"; work=$(realpath "$WORK"); else work=$(mktemp -d); fi
study=$work/study
rm -rf "$study"; mkdir -p "$study"; chmod 777 "$study"
. containers/engine.sh

clean_up() {
    if [ -n "${CONTAINERS_STORAGE_CONF:-}" ] && [ -z "${WORK:-}" ]; then podman system reset --force > /dev/null 2>&1; fi
    if [ -z "${WORK:-}" ]; then rm -rf "$work"; fi
}
trap clean_up EXIT

# in_container FLAG... -- WORD...: run the image's entry point with these words, strictly.
in_container() {
    local flags=()
    while [ "$1" != -- ]; do flags+=("$1"); shift; done
    shift
    [ "$ENGINE" != podman ] || flags+=(--passwd=false)      # Podman would add the user to /etc/passwd; Docker does not
    "$ENGINE" run --network none --read-only --tmpfs /tmp --cap-drop all --security-opt no-new-privileges \
        --user "$user" -v "$study:/data" "${flags[@]}" "$image" "$@"
}

strict() { in_container --rm --shm-size 64m -- "$@"; }

# report NAME SECONDS PROBLEM: one line for a check; what was printed comes with a problem.
report() {
    if [ -z "$3" ]; then
        passed=$((passed + 1)); printf 'ok      %4d s  %s\n' "$2" "$1"
    else
        failed=$((failed + 1)); printf 'FAILED  %4d s  %s: %s\n' "$2" "$1" "$3"
        tail -20 "$work/out.log" | sed 's/^/        | /'
    fi
}

# check NAME CODE WORDS COMMAND...: does the command end with this code, and print these words ("": whatever)?
check() {
    local name=$1 code=$2 words=$3 got=0 problem="" start=$SECONDS
    shift 3
    "$@" > "$work/out.log" 2>&1 || got=$?
    if [ $got != "$code" ]; then problem="exit code $got, not $code"; fi
    if [ -z "$problem" ] && [ -n "$words" ] && ! grep -q -- "$words" "$work/out.log"; then problem="nothing says '$words'"; fi
    report "$name" $((SECONDS - start)) "$problem"
}

# Wait at most SECONDS until the shell condition holds.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until eval "$*"; do [ $SECONDS -lt $end ] || return 1; sleep 0.2; done
}

running() { [ "$("$ENGINE" inspect --format '{{.State.Running}}' "$1")" = true ]; }
exit_code() { "$ENGINE" inspect --format '{{.State.ExitCode}}' "$1"; }
epochs_in() { cat "$study"/results/*/train/*/"$1"*/metrics.jsonl 2> /dev/null | wc -l; }

check_entry_point() {
    check "no word: sulcnet_info" 0 "^software  *sulcnet [0-9]" strict
    check "a lone flag goes to sulcnet_info" 0 "^sulcnet [0-9]" strict --version
    check "a command without its prefix" 0 "^usage: sulcnet_predict" strict predict -h
    check "a command by its whole name" 0 "^usage: sulcnet_train" strict sulcnet_train -h
    check "a wrong flag ends with 2" 2 "no flag '--nonsense'" strict predict --nonsense
    check "an unknown word lists the commands" 127 "next: Take one of:.* predict" strict predcit
    check "any exit code comes through" 42 "" strict sh -c "exit 42"
}

check_image() {
    check "the user is in no password file" 1 "" strict grep -q :12345: /etc/passwd
    check "the root is read-only" 2 "Read-only" strict sh -c "echo > /opt/file"
    check "there is no network" 0 "^0$" strict sh -c "ls /sys/class/net | grep -cv '^lo$' || true"
    check "no capability is left" 0 "^CapEff:.0*$" strict grep CapEff /proc/self/status
    check "the default network starts" 0 "^torch 2" strict python -c \
        "import torch, sulcnet.networks._swin_network; print('torch', torch.__version__)"
    check "no pip setting of this machine is inside" 1 "" strict sh -c "pip config list | grep -v ^:env:"
    check "what is inside is listed" 0 "^sulcnet==" strict grep -E "^(sulcnet|torch|numpy|SLIM)" /opt/sulcnet/installed.txt
    check "the label tells version and licence" 0 "sulcnet.*Apache-2.0" "$ENGINE" image inspect --format \
        '{{index .Config.Labels "org.opencontainers.image.title"}} {{index .Config.Labels "org.opencontainers.image.licenses"}}' "$image"
}

check_self_test() {
    if ! strict info --help | grep -q -- --self-test; then echo "--      sulcnet_info has no --self-test: not run"; return; fi
    check "the self-test" 0 "" strict info --self-test
}

# The first cases of DATA, its table and its counts cut to them; or phantoms, drawn in the container.
lay_out_data() {
    if [ ! -d "$DATA" ]; then
        number=900 name=Dataset900_Phantoms
        strict python -c "from pathlib import Path
from sulcnet.phantoms.cohort import draw_cohort
from sulcnet.phantoms.dataset import write_dataset
write_dataset(Path('/data/raw/$name'), draw_cohort(0, 15), shares=(0.6, 0.2))"
        return
    fi
    name=$(basename "$DATA"); number=$((10#${name:7:3}))
    local raw=$study/raw/$name cases=${CASES:-16} case
    mkdir -p "$raw/imagesTr" "$raw/labelsTr"
    sed "s/\"numTraining\": *[0-9]*/\"numTraining\": $cases/" "$DATA/dataset.json" > "$raw/dataset.json"
    head -n $((cases + 1)) "$DATA/participants.tsv" > "$raw/participants.tsv"
    for case in $(tail -n +2 "$raw/participants.tsv" | cut -f1); do
        cp "$DATA/imagesTr/$case"_* "$raw/imagesTr/"; cp "$DATA/labelsTr/$case".* "$raw/labelsTr/"
    done
    chmod -R a+rX "$study/raw"
}

check_whole_path() {
    local images=/data/raw/$name/imagesTr
    check "plan_and_preprocess" 0 "prepared" strict plan_and_preprocess -d $number --net resenc_unet --features 8 \
        --gpu-memory 2 --patch 32 32 32 --batch 2
    check "pretrain" 0 "^Weights:" strict pretrain $number 3d mae --time-limit 0.2 -np 2
    check "train, two workers, 64 MB of shared memory" 0 "^Run:" strict train $number 3d --pretrain mae --time-limit 0.3 -np 2
    check "predict" 0 "predictions.tsv" strict predict -i $images -o /data/predicted
    check "evaluate" 0 "" strict evaluate -p /data/predicted -r /data/raw/$name/labelsTr -d $number -o /data/scores
    check "everything written belongs to the user" 0 "^0$" strict sh -c \
        "find /data/preprocessed /data/results /data/predicted /data/scores ! -user 12345 | wc -l"
}

# SIGTERM, as `stop` and a cluster's scheduler send it, to process 1 of a container that trains.
check_stop_and_continue() {
    local words=(train $number 3d 0 --epochs 3 -np 2) problem="" start=$SECONDS id
    id=$(in_container --detach --shm-size 64m -- "${words[@]}")
    wait_for 180 '[ "$(epochs_in fold0)" -ge 1 ] || ! running $id' || problem="no epoch in 180 s"
    "$ENGINE" stop --time 60 "$id" > /dev/null 2>&1
    "$ENGINE" logs "$id" > "$work/out.log" 2>&1
    if [ -z "$problem" ] && [ "$(exit_code "$id")" != 130 ]; then problem="exit code $(exit_code "$id"), not 130"; fi
    "$ENGINE" rm --force "$id" > /dev/null
    report "SIGTERM in mid-training ends with 130" $((SECONDS - start)) "$problem"
    check "--c continues in a new container" 0 "^Run:" strict "${words[@]}" --c
    check "it did the epochs that were left" 0 "^3$" epochs_in fold0
}

# 1 MB of shared memory holds no batch: either an error with exit code 3, or training all the same; never a wait.
check_tiny_shared_memory() {
    local problem="" start=$SECONDS id
    id=$(in_container --detach --shm-size 1m -- train $number 3d 1 --time-limit 0.1 -np 2)
    wait_for 30 '[ "$(epochs_in fold1)" -ge 1 ] || ! running $id' || problem="neither an epoch nor an end in 30 s"
    if [ -z "$problem" ] && [ "$(epochs_in fold1)" = 0 ] && [ "$(exit_code "$id")" != 3 ]; then
        problem="exit code $(exit_code "$id"), not 3"
    fi
    "$ENGINE" logs "$id" > "$work/out.log" 2>&1
    "$ENGINE" rm --force "$id" > /dev/null 2>&1
    report "1 MB of shared memory: trains or ends with 3 within 30 s" $((SECONDS - start)) "$problem"
}

find_engine
find_base
mount_pip_settings
build_image
echo "built   $SECONDS s  $image with $ENGINE, SLIM=${SLIM:-0}: $(image_size)"
check_entry_point
check_image
check_self_test
lay_out_data
check_whole_path
check_stop_and_continue
check_tiny_shared_memory
echo "seconds: $SECONDS"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
