# Sourced by containers/test.sh: build singularity.def and run what it makes.
# The base image is the engine's: both recipes are tested on the same one, and no registry is asked.

# Apptainer as this machine has it; or, as root, Debian's newest in a folder that only this test uses.
find_apptainer() {
    if command -v apptainer > /dev/null; then return; fi
    if [ "$(id -u)" != 0 ] || ! command -v mmdebstrap > /dev/null; then return 1; fi
    where=(in_debian)
    apptainer_flags=(--ignore-fakeroot-command)     # made for the newer system, not for the image's
    if [ ! -x "$work/debian/usr/bin/apptainer" ]; then make_debian || return 1; fi
    cp /etc/hosts /etc/resolv.conf "$work/debian/etc/"
}

make_debian() {
    # A mirror may be a copy that stands still; what it serves is signed all the same.
    mmdebstrap --quiet --variant=minbase --mode=root --aptopt='Acquire::Check-Valid-Until "false"' \
        --include=apptainer,ca-certificates sid "$work/debian" \
        > "$work/apptainer.log" 2>&1 || return 1
    echo "someone:x:$user::$work/home:/bin/sh" >> "$work/debian/etc/passwd"
    echo "someone:x:${user#*:}:" >> "$work/debian/etc/group"
}

# in_debian COMMAND...: run it as an ordinary user who sees that folder as the root of the machine. Not by
# chroot, in which the kernel allows no user namespace. The mounts are the command's own and end with it.
in_debian() {
    SEEN=${pip_paths[*]:1} unshare --mount --propagation private bash -euc '
        work=$1 root=$1/debian ids=$2
        shift 2
        mount --bind "$root" "$root"
        for path in /proc /sys /dev /tmp "$work" $SEEN; do
            if [ -d "$path" ]; then
                mkdir -p "$root$path"
            else
                mkdir -p "$root${path%/*}"
                touch "$root$path"
            fi
            mount --rbind "$path" "$root$path"
        done
        cd "$root"
        mkdir -p .old
        pivot_root . .old
        umount -l /.old
        cd "$work/context"
        exec setpriv --reuid "${ids%:*}" --regid "${ids#*:}" --clear-groups \
            env -i HOME="$work/home" TMPDIR="$work/home" PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"' \
        in_debian "$work" "$user" "$@"
}

# The recipe as it stands but for its base, and what it copies.
lay_out_recipe() {
    local archive=$work/base-archive.tar
    mkdir -p "$work/context" "$work/home" "$study_a"
    cp -r LICENSE README.md constraints.txt setup.py containers sulcnet "$work/context"
    cp -r "$study/raw" "$study_a/"
    sed "s#^Bootstrap: .*#Bootstrap: docker-archive#; s#^From: .*#From: $archive#" singularity.def \
        > "$work/context/test.def"
    if [ ${#where[@]} != 0 ]; then chown -R "$user" "$work/context" "$work/home" "$study_a"; fi
    archive_base "$archive"
}

# The base with the places at which pip's settings are mounted: Apptainer makes none while it builds.
archive_base() {
    local path recipe="FROM $base"
    for path in "${pip_paths[@]}"; do
        recipe+=$'\n'"RUN mkdir -p ${path%/*}"
        if [ -d "$path" ]; then recipe+=" $path"; else recipe+=" && touch $path"; fi
    done
    echo "$recipe" > "$work/base.recipe"
    {
        "$ENGINE" build "${build_flags[@]}" -t localhost/sulcnet:base -f "$work/base.recipe" "$work/home"
        rm -f "$1"
        "$ENGINE" save -o "$1" localhost/sulcnet:base
    } > "$work/base.log" 2>&1
    chmod 644 "$1"
}

build_sandbox() (
    flags=(--sandbox --force "${apptainer_flags[@]}" "${build_arguments[@]}")
    for path in "${pip_paths[@]}"; do flags+=(--bind "$(pip_source "$path"):$path"); done
    cd "$work/context"
    "${where[@]}" apptainer build "${flags[@]}" "$work/home/sandbox" test.def
)

# A cluster's modules set these two for the host's Python; the one in the image must not read them.
apptainer_run() {
    "${where[@]}" env PYTHONPATH=/nowhere PYTHONHOME=/nowhere \
        apptainer run --bind "$study_a:/data" "$work/home/sandbox" "$@"
}

check_apptainer() {
    study_a=$work/study_a where=() apptainer_flags=()
    if ! find_apptainer; then
        echo "--      no Apptainer here, and none to be had: singularity.def was not built"
        return
    fi
    rm -rf "$study_a" "$work/home/sandbox"
    lay_out_recipe
    check "Apptainer: build, with %test" 0 "^sulcnet [0-9]" build_sandbox
    if [ ! -e "$work/home/sandbox" ]; then return; fi
    check "Apptainer: the host's PYTHONHOME stays out" 0 "^software  *sulcnet [0-9]" apptainer_run
    check "Apptainer: a command without its prefix" 0 "^usage: sulcnet_predict" apptainer_run predict -h
    check "Apptainer: a wrong flag ends with 2" 2 "no flag '--nonsense'" apptainer_run train --nonsense
    check "Apptainer: plan_and_preprocess" 0 "prepared" apptainer_run plan_and_preprocess "${planned[@]}"
    check "Apptainer: train" 0 "^Run:" apptainer_run train "$number" 3d --time-limit 0.1 -np 2
}
