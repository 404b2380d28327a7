# sulcnet in a container: runs as any user, on a read-only file system, without a network.
#
#   docker build -t sulcnet .
#   docker build -t sulcnet --build-arg TORCH_INDEX=URL .       # another build of torch (CPU only, another CUDA)
#   docker run --rm sulcnet                                     # what is in it: sulcnet_info
#   docker run --rm --init --network none --read-only --tmpfs /tmp -u $(id -u):$(id -g) \
#       --gpus all --shm-size 8g -v "$PWD/data:/data" sulcnet sulcnet_predict -i /data/in -o /data/out
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

WORKDIR /opt/sulcnet
COPY constraints.txt ./
# torch alone first: it is large, and this layer then survives every change of the code.
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c constraints.txt torch
COPY setup.py README.md LICENSE ./
COPY sulcnet sulcnet
RUN pip install -c constraints.txt . \
    && mkdir -p /data/raw /data/preprocessed /data/results \
    && chmod -R 1777 /data

# Everything that a library wants to write beside its files goes to /tmp; HOME too, for users without one.
ENV SULCNET_ROOT=/data \
    SULCNET_CACHE=/tmp/sulcnet_cache \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/sulcnet_cache \
    MPLCONFIGDIR=/tmp/sulcnet_cache/matplotlib \
    TORCH_HOME=/tmp/sulcnet_cache/torch \
    TORCHINDUCTOR_CACHE_DIR=/tmp/sulcnet_cache/inductor \
    TRITON_CACHE_DIR=/tmp/sulcnet_cache/triton

WORKDIR /data
USER 1000:1000
# `env` runs whatever command is given and hands it the signals.
ENTRYPOINT ["/usr/bin/env"]
CMD ["sulcnet_info"]
