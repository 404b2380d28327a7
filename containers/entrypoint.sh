#!/bin/sh
# What `docker run sulcnet ...` and `apptainer run sulcnet.sif ...` start.
#
#   predict -i in -o out      a command of sulcnet, without its prefix
#   sulcnet_predict -i in     the same, as it is called everywhere else; so is any other program: python, bash
#   -d 1, --version, nothing  goes to sulcnet_info
#
# `exec` puts the command in the place of this shell: it gets the signals, its exit code is the container's.
case "${1:-}" in
    "" | -*)
        set -- sulcnet_info "$@"
        ;;
    *)
        if command -v "sulcnet_$1" > /dev/null; then
            job=sulcnet_$1
            shift
            set -- "$job" "$@"
        elif ! command -v "$1" > /dev/null; then
            jobs=""
            for file in "$(dirname "$(command -v sulcnet_info)")"/sulcnet_*; do
                jobs="$jobs ${file##*/sulcnet_}"
            done
            echo "error: No command or program is called '$1'." >&2
            echo " next: Take one of:$jobs." >&2
            exit 127
        fi
        ;;
esac
exec "$@"
