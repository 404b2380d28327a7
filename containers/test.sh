#!/usr/bin/env bash
# Build the image and use it as a strict cluster would: a user that nobody knows, read-only, no network, no
# capabilities, 64 MB of shared memory. `make container-test` runs it; it starts from nothing. MemoryOracle bash 4.4.
#
#   ENGINE=podman     instead of what is found (Docker, then Podman)
#   TORCH_INDEX=URL   another build of torch, such as the small one without CUDA
#   SLIM=1            test the smaller image
#   DATA=FOLDER       a raw dataset, of which the first CASES (16) are taken; where it is no folder: phantoms
#   WORK=FOLDER       keep store, logs and results there, and take up what an earlier run built
set -euo pipefail
cd "$(dirname "$0")/.."
base=docker.io/library/python:3.11-slim image=localhost/sulcnet:test user=12345:23456
passed=0 failed=0 own_store=no build_flags=() build_arguments=() pip_paths=() pip_mounts=()
DATA=${DATA:-../shared/data/hippocampus/Dataset004_Hippocampus}

if [ -n "${WORK:-}" ]; then mkdir -p "$WORK"; work=$(realpath "$WORK"); else work=$(mktemp -d); fi
chmod 755 "$work"
study=$work/study
rm -rf "$study"
mkdir -p "$study"
chmod 777 "$study"
. containers/engine.sh
. containers/apptainer.sh

clean_up() {
    if [ -n "${WORK:-}" ]; then return; fi
    if [ "$(id -u)" != 0 ]; then    # what a container wrote is another user's: only a container can remove it
        "$ENGINE" run --rm --user 0:0 -v "$work:/scratch" --entrypoint /bin/rm "$image" -rf /scratch/study \
            > /dev/null 2>&1 || true
    fi
    if [ $own_store = yes ]; then   # not by `system reset`, which would take the machine's networks too
        podman rm --all --force > /dev/null 2>&1 || true
        podman rmi --all --force > /dev/null 2>&1 || true
        umount "$work/store/overlay" 2> /dev/null || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT

# in_container FLAG... -- WORD...: run the image's entry point with these words, strictly.
in_container() {
    local flags=(--network none --read-only --tmpfs /tmp --cap-drop all --security-opt no-new-privileges)
    flags+=(--user "$user" -v "$study:/data" --env "OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}")
    if [ "$ENGINE" = podman ]; then flags+=(--passwd=false); fi     # it would add the user; Docker does not
    while [ "$1" != -- ]; do
        flags+=("$1")
        shift
    done
    shift
    "$ENGINE" run "${flags[@]}" "$image" "$@"
}

strict() { in_container --rm --shm-size 64m -- "$@"; }
running() { [ "$("$ENGINE" inspect --format '{{.State.Running}}' "$1")" = true ]; }
exit_code() { "$ENGINE" inspect --format '{{.State.ExitCode}}' "$1"; }
epochs_in() { { cat "$study"/results/*/train/*/"$1"__*/metrics.jsonl 2> /dev/null || true; } | wc -l; }
labels() { "$ENGINE" image inspect --format '{{json .Config.Labels}}' "$image"; }

# report NAME SECONDS PROBLEM: one line for a check; what was printed comes with a problem.
report() {
    if [ -z "$3" ]; then
        passed=$((passed + 1))
        printf 'ok      %4d s  %s\n' "$2" "$1"
    else
        failed=$((failed + 1))
        printf 'FAILED  %4d s  %s: %s\n' "$2" "$1" "$3"
        tail -20 "$work/out.log" | sed 's/^/        | /'
    fi
}

# check NAME CODE WORDS COMMAND...: does the command end with this code, and print these words ("": whatever)?
check() {
    local name=$1 code=$2 words=$3 got=0 problem="" start=$SECONDS
    shift 3
    "$@" > "$work/out.log" 2>&1 || got=$?
    if [ $got != "$code" ]; then
        problem="exit code $got, not $code"
    elif [ -n "$words" ] && ! grep -q -- "$words" "$work/out.log"; then
        problem="nothing says '$words'"
    fi
    report "$name" $((SECONDS - start)) "$problem"
}

# wait_for SECONDS COMMAND...: wait until the command succeeds, at most so long.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ $SECONDS -ge $end ]; then return 1; fi
        sleep 0.2
    done
}

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
    local start="import torch, sulcnet.networks._swin_network; print('torch', torch.__version__)"
    check "the user is in no password file" 1 "" strict grep -q :12345: /etc/passwd
    check "the root is read-only" 2 "Read-only" strict sh -c "echo > /opt/file"
    check "there is no network" 0 "^0$" strict sh -c "ls /sys/class/net | grep -cv '^lo$' || true"
    check "no capability is left" 0 "^CapEff:.0*$" strict grep CapEff /proc/self/status
    check "the default network starts" 0 "^torch 2" strict python -c "$start"
    check "no pip setting of this machine is inside" 1 "" strict sh -c "pip config list | grep -v ^:env:"
    check "the self-test passes" 0 "^All [0-9]* checks passed" strict --self-test
    check "what is inside is listed" 0 "^sulcnet==" strict cat /opt/sulcnet/installed.txt
    check "a label tells the licence" 0 'image.licenses":"Apache-2.0"' labels
    check "a label tells the version" 0 'image.version":"[0-9][0-9.]*"' labels
}

# The first cases of DATA, its table and its counts cut to them; or phantoms, drawn in the container.
lay_out_data() {
    if [ ! -d "$DATA" ]; then
        number=900 name=Dataset900_Phantoms
        draw_phantoms
        return
    fi
    name=$(basename "$DATA")
    number=$((10#${name:7:3}))
    local raw=$study/raw/$name cases=${CASES:-16} case
    mkdir -p "$raw/imagesTr" "$raw/labelsTr"
    sed "s/\"numTraining\": *[0-9]*/\"numTraining\": $cases/" "$DATA/dataset.json" > "$raw/dataset.json"
    head -n $((cases + 1)) "$DATA/participants.tsv" > "$raw/participants.tsv"
    for case in $(tail -n +2 "$raw/participants.tsv" | cut -f1); do
        cp "$DATA/imagesTr/$case"_* "$raw/imagesTr/"
        cp "$DATA/labelsTr/$case".* "$raw/labelsTr/"
    done
    chmod -R a+rX,u+w "$study/raw"
}

draw_phantoms() {
    strict python -c "
from pathlib import Path
from sulcnet.phantoms.dataset import Cohort, write_dataset

write_dataset(Path('/data/raw/$name'), Cohort(0, (1.5,) * 3, (40, 56, 48)), 15, shares=(0.6, 0.2))"
}

check_whole_path() {
    local raw=/data/raw/$name
    planned=(-d $number --net resenc_unet --features 4 --gpu-memory 2 --patch 16 16 16 --batch 2)
    check "plan_and_preprocess" 0 "prepared" strict plan_and_preprocess "${planned[@]}"
    check "pretrain" 0 "^Weights:" strict pretrain $number 3d mae --time-limit 0.2 -np 2
    check "train with two workers, then score" 0 "^Run:" \
        strict train $number 3d --pretrain mae --time-limit 0.3 -np 2
    strict sh -c "mkdir /data/new && cd $raw/imagesTr && cp \$(ls | head -4) /data/new"
    check "predict" 0 "cases predicted" strict predict -i /data/new -o /data/predicted
    check "evaluate" 0 "" strict evaluate -i /data/predicted -r "$raw/labelsTr" -d $number -o /data/scores \
        --allow-missing
    check "everything written belongs to the user" 0 "^0$" strict sh -c \
        "find /data/preprocessed /data/results /data/predicted /data/scores ! -user 12345 | wc -l"
}

trained_or_ended() { [ "$(epochs_in "$1")" -ge 1 ] || ! running "$2"; }

# SIGTERM, as `stop` and a cluster's scheduler send it, to process 1 of a container that trains.
check_stop_and_continue() {
    local words=(train $number 3d 0 --epochs 3 -np 2) problem="" start=$SECONDS id
    id=$(in_container --detach --shm-size 64m -- "${words[@]}")
    wait_for 300 trained_or_ended fold_0 "$id" || problem="no epoch in 300 s"
    "$ENGINE" stop --time 60 "$id" > /dev/null 2>&1
    "$ENGINE" logs "$id" > "$work/out.log" 2>&1
    if [ "$(exit_code "$id")" != 130 ]; then problem=${problem:-exit code $(exit_code "$id"), not 130}; fi
    "$ENGINE" rm --force "$id" > /dev/null
    report "SIGTERM in mid-training ends with 130" $((SECONDS - start)) "$problem"
    check "--c continues in a new container" 0 "^Run:" strict "${words[@]}" --c
    check "it did the epochs that were left" 0 "^3$" epochs_in fold_0
}

began_or_ended() { "$ENGINE" logs "$1" 2>&1 | grep -q "training cases" || ! running "$1"; }

# 1 MB of shared memory holds no batch of these larger patches: an error with exit code 3, or training all the
# same, with other means; never a wait.
# The 30 s count from the moment when training begins: loading torch takes a busy machine long.
check_tiny_shared_memory() {
    local problem="" start=$SECONDS id
    check "plan larger patches" 0 "prepared" strict plan_and_preprocess "${planned[@]}" -p large --patch 32 32 32
    id=$(in_container --detach --shm-size 1m -- train $number 3d 1 -p large --time-limit 0.1 -np 2)
    wait_for 60 began_or_ended "$id" || problem="it does not begin"
    wait_for 30 trained_or_ended fold_1 "$id" || problem="neither an epoch nor an end in 30 s"
    if ! running "$id" && [ "$(epochs_in fold_1)" = 0 ] && [ "$(exit_code "$id")" != 3 ]; then
        problem="exit code $(exit_code "$id"), not 3"
    fi
    "$ENGINE" logs "$id" > "$work/out.log" 2>&1
    "$ENGINE" rm --force "$id" > /dev/null 2>&1
    report "1 MB of shared memory: trains or ends with 3 within 30 s" $((SECONDS - start)) "$problem"
}

find_engine
find_base
find_pip_settings
find_arguments
build_image
echo "built   $SECONDS s  $image with $ENGINE, SLIM=${SLIM:-0}: $(image_size)"
check_entry_point
check_image
lay_out_data
check_whole_path
check_stop_and_continue
check_tiny_shared_memory
check_apptainer
echo "seconds: $SECONDS"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
