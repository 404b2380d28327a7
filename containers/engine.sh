# Sourced by containers/test.sh: an engine, a base image and a built image, on the machine as it is found.

# A message, and what to do: the two lines that every error of sulcnet is.
fail() {
    printf 'error: container-test: %s\n next: %s\n' "$1" "$2" >&2
    exit 3
}

find_engine() {
    if [ -z "${ENGINE:-}" ]; then
        for ENGINE in docker podman none; do
            if "$ENGINE" info > "$work/engine.log" 2>&1; then break; fi
            if [ "$ENGINE" = podman ] && command -v podman > /dev/null; then break; fi
        done
    fi
    command -v "$ENGINE" > /dev/null || fail "There is neither Docker nor Podman that this user may run." \
        "Install one. Debian: apt-get install --no-install-recommends podman runc mmdebstrap"
    if [ "$ENGINE" = podman ] && [ "$(id -u)" = 0 ]; then own_podman; fi
    "$ENGINE" info > "$work/engine.log" 2>&1 || fail "$ENGINE does not start: $(tail -1 "$work/engine.log")" \
        "Start its service, or set ENGINE to podman or docker."
}

# Root's Podman gets its own store and settings, so that nothing of the machine's is touched. They work inside
# a container or a small virtual machine too: no systemd, no limits raised, for which a right may be missing.
own_podman() {
    command -v runc > /dev/null || fail "runc is missing." "apt-get install --no-install-recommends runc"
    cat > "$work/storage.conf" <<END
[storage]
driver = "${DRIVER:-overlay}"
graphroot = "$work/store"
runroot = "$work/run"
END
    cat > "$work/containers.conf" <<END
[containers]
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
END
    export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_CONF=$work/containers.conf
    own_store=yes
    build_flags=(--isolation chroot)
}

# The base image: there, or pulled; where no registry is reached, Debian's own python3 is put in its place.
find_base() {
    if "$ENGINE" image inspect "$base" > /dev/null 2>&1; then return; fi
    if timeout 120 "$ENGINE" pull -q "$base" > "$work/pull.log" 2>&1; then return; fi
    if [ "$(id -u)" != 0 ] || ! command -v mmdebstrap > /dev/null; then
        fail "There is no $base: $(tail -1 "$work/pull.log")" \
            "As root, and with mmdebstrap installed, Debian's Python stands in for it."
    fi
    echo "base image: no registry is reached; Debian's python3 stands in for $base"
    mmdebstrap --quiet --variant=minbase --mode=root --include=python3,python3-venv,ca-certificates \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --customize-hook='chroot "$1" python3 -m venv /usr/local' \
        bookworm "$work/base.tar" > "$work/base.log" 2>&1 \
        || fail "mmdebstrap ended with an error: $(tail -1 "$work/base.log")" "WORK=DIR keeps $work/base.log."
    "$ENGINE" import --change 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        --change 'ENV LANG=C.UTF-8' "$work/base.tar" "$base" > /dev/null 2>&1
    rm "$work/base.tar"
}

# pip asks in the build what it asks here: its settings, and the files that they name, are mounted, never
# written into the image. Docker mounts nothing into a build: TORCH_INDEX and its proxy settings have to do.
find_pip_settings() {
    [ "$ENGINE" = podman ] || return 0
    local path paths
    echo "[global]" > "$work/pip.conf"
    python3 -m pip config list 2> /dev/null | sed -nE "s/^(global|:env:)\.([a-z-]+)='(.*)'$/\2 = \3/p" \
        | sed 's/\\n/ /g' | sort -u -k1,1 >> "$work/pip.conf"
    paths=$(grep -oE '(^| |file://)/[^ ]+' "$work/pip.conf" \
        | sed -E 's#^( |file://)##; s#/simple/?$##' | sort -u)
    pip_paths=(/etc/pip.conf)
    for path in $paths; do
        if [ -e "$path" ]; then pip_paths+=("$path"); fi
    done
    for path in "${pip_paths[@]}"; do pip_mounts+=(-v "$(pip_source "$path"):$path:ro"); done
}

# What of this machine is mounted at a path.
pip_source() {
    if [ "$1" = /etc/pip.conf ]; then echo "$work/pip.conf"; else realpath "$1"; fi
}

find_arguments() {
    build_arguments=(
        --build-arg "TORCH_INDEX=${TORCH_INDEX:-}"
        --build-arg "SLIM=${SLIM:-0}"
        --build-arg "VERSION=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' sulcnet/__init__.py)"
        --build-arg "REVISION=$(git rev-parse HEAD 2> /dev/null || true)"
    )
}

build_image() {
    if "$ENGINE" build "${build_flags[@]}" "${pip_mounts[@]}" "${build_arguments[@]}" \
        -t "$image" . > "$work/build.log" 2>&1; then return; fi
    tail -25 "$work/build.log"
    fail "The image could not be built." "Mend what is said above; ENGINE and TORCH_INDEX choose how."
}

image_size() {
    "$ENGINE" image inspect --format '{{.Size}}' "$image" | awk '{printf "%.2f GB", $1 / 1e9}'
}
