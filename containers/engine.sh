# How containers/test.sh gets an engine, a base image and a built image on the machine that it finds. Sourced by it.

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
    [ "$ENGINE" != podman ] || [ "$(id -u)" != 0 ] || own_podman
    "$ENGINE" info > "$work/engine.log" 2>&1 \
        || fail "$ENGINE does not start: $(tail -1 "$work/engine.log")" "Start its service, or set ENGINE=podman or docker."
}

# Root's Podman gets its own store and settings, so that nothing of the machine's is touched; and settings that work
# inside a container or a small virtual machine too: no systemd, and no limits raised, for which a right may be missing.
own_podman() {
    command -v runc > /dev/null || fail "Podman's runc is missing." "apt-get install --no-install-recommends runc"
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
    build_flags+=(--isolation chroot)
}

# The base image: there, or pulled; where no registry is reached, Debian's own python3 is put in its place.
find_base() {
    local base=docker.io/library/python:3.11-slim
    if "$ENGINE" image inspect $base > /dev/null 2>&1; then return; fi
    if timeout 120 "$ENGINE" pull -q $base > "$work/pull.log" 2>&1; then return; fi
    [ "$(id -u)" = 0 ] && command -v mmdebstrap > /dev/null \
        || fail "There is no $base: $(tail -1 "$work/pull.log")" "As root, with mmdebstrap installed, Debian's stands in."
    echo "base image: no registry is reached; Debian's python3 stands in for $base"
    mmdebstrap --quiet --variant=minbase --mode=root --include=python3,python3-venv,ca-certificates \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --customize-hook='chroot "$1" python3 -m venv /usr/local' bookworm "$work/base.tar" > "$work/base.log" 2>&1 \
        || fail "mmdebstrap ended with an error: $(tail -1 "$work/base.log")" "See $work/base.log (WORK=DIR keeps it)."
    "$ENGINE" import --change 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' --change 'ENV LANG=C.UTF-8' \
        "$work/base.tar" $base > /dev/null 2>&1
    rm "$work/base.tar"
}

# pip asks in the build what it asks here: its settings, and the files that they name, are mounted, never written into
# the image. Docker mounts nothing into a build: there TORCH_INDEX, or the engine's own proxy settings, have to do.
mount_pip_settings() {
    [ "$ENGINE" = podman ] || return 0
    local path
    echo "[global]" > "$work/pip.conf"
    python3 -m pip config list 2> /dev/null | sed -nE "s/^(global|:env:)\.([a-z-]+)='(.*)'$/\2 = \3/p" \
        | sed 's/\\n/ /g' | sort -u -k1,1 >> "$work/pip.conf"
    build_flags+=(-v "$work/pip.conf:/etc/pip.conf:ro")
    for path in $(grep -oE '(^| |file://)/[^ ]+' "$work/pip.conf" | sed -E 's#^( |file://)##; s#/simple/?$##' | sort -u); do
        if [ -e "$path" ]; then build_flags+=(-v "$(realpath "$path"):$path:ro"); fi
    done
}

build_image() {
    local version revision
    version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' sulcnet/__init__.py)
    revision=$(git rev-parse HEAD 2> /dev/null || true)
    DOCKER_BUILDKIT=1 "$ENGINE" build ${build_flags[@]+"${build_flags[@]}"} -t "$image" \
        --build-arg VERSION="$version" --build-arg REVISION="$revision" \
        --build-arg TORCH_INDEX="${TORCH_INDEX:-}" --build-arg SLIM="${SLIM:-0}" . > "$work/build.log" 2>&1 || {
        tail -25 "$work/build.log"
        fail "The image could not be built." "Mend what is said above; ENGINE and TORCH_INDEX choose how it is built."
    }
}

image_size() {
    "$ENGINE" image inspect --format '{{.Size}}' "$image" | awk '{printf "%.2f GB", $1 / 1e9}'
}
