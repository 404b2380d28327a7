#!/bin/sh
# What both recipes run to fill an image, so that the two hold the same:
#
#   install.sh torch      torch alone: it is large, and its layer then survives every change of the code
#   install.sh sulcnet    the wheel of /wheel and what it needs, less what nothing imports
#
#   TORCH_INDEX=URL       the package index of another build of torch (CPU only, another CUDA)
#   SLIM=1                leave out triton (nothing here compiles), tests and headers too
set -eu
here=$(dirname "$0")
site=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
stdlib=$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')

# Other packages ask for these, but what sulcnet uses of them works without. `every_import` below fails the build when
# that is no longer so. pandas stays: the classes of batchgenerators import it, and scikit-image.
UNUSED="scikit-learn joblib narwhals ImageIO tifffile connected-components-3d
        unittest2 traceback2 linecache2 argparse future tzdata"

main() {
    case "$1" in
        torch) pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c "$here/constraints.txt" torch ;;
        sulcnet)
            pip install -c "$here/constraints.txt" /wheel/*.whl
            pip uninstall -y $UNUSED
            ;;
    esac
    [ "${SLIM:-0}" != 1 ] || slim
    [ "$1" != sulcnet ] || finish
}

# pip fetches triton again in the second step, where torch's wish for it is not met: it goes again then.
slim() {
    pip uninstall -y triton
    find "$site" -depth -type d \( -name test -o -name tests \) -exec rm -rf {} +
    find "$site" -depth -type d -name include -exec rm -rf {} +
    find "$site" -name '*.a' -delete
    find "$site/torch/bin" -type f ! -name 'torch_shm_manager' -delete
}

finish() {
    every_import
    python -m compileall -q "$stdlib" || true   # a read-only image could not keep byte code later
    mkdir -p /data/raw /data/preprocessed /data/results
    chmod -R 1777 /data
    list_installed > "$here/installed.txt"
    cat "$here/installed.txt"
}

every_import() {
    python - <<'END'
import importlib, pkgutil
import SimpleITK, acvl_utils, batchgenerators, matplotlib.backends.backend_agg, nibabel, pynvml, skimage.morphology, tqdm
import sulcnet

for module in pkgutil.walk_packages(sulcnet.__path__, "sulcnet."):
    importlib.import_module(module.name)
END
}

list_installed() {
    echo "# Python $(python -c 'import platform; print(platform.python_version())'), SLIM=${SLIM:-0}"
    echo "# left out:" $UNUSED
    pip list --format=freeze --disable-pip-version-check
}

main "$@"
