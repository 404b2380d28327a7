# sulcnet in a container: any user, a read-only file system, no network. What to type: docs/containers.md
#
#   docker build -t sulcnet .                                # torch's default build, with CUDA
#   docker build -t sulcnet --build-arg TORCH_INDEX=URL .    # another one: CPU only, another CUDA
#   docker build -t sulcnet --build-arg SLIM=1 .             # smaller: without triton, tests and headers
#
# VERSION, REVISION and SOURCE only label the image.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY setup.py pyproject.toml README.md LICENSE ./
COPY sulcnet sulcnet
RUN pip wheel --no-cache-dir --no-deps --use-pep517 --wheel-dir /wheel .

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=""
ARG SLIM=0
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /opt/sulcnet
COPY constraints.txt containers/install.sh ./
RUN ./install.sh torch
# The source stays in the other stage; what travels is a wheel of a third of a megabyte.
COPY --from=wheel /wheel /wheel
RUN ./install.sh sulcnet && rm -r /wheel
COPY LICENSE containers/entrypoint.sh ./

# What libraries write goes to /tmp. LOGNAME and USER: where they are not set, Python asks the password
# database for the user's name, and ends with an error for a user that it does not know.
ENV SULCNET_ROOT=/data \
    SULCNET_CACHE=/tmp/sulcnet_cache \
    XDG_CACHE_HOME=/tmp/sulcnet_cache \
    MPLCONFIGDIR=/tmp/sulcnet_cache/matplotlib \
    HOME=/tmp \
    USER=sulcnet \
    LOGNAME=sulcnet \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    PYTHONUNBUFFERED=1 \
    PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

ARG VERSION=""
ARG REVISION=""
ARG SOURCE=""
LABEL org.opencontainers.image.title="sulcnet" \
      org.opencontainers.image.description="Finds small, variable cortical folds in brain MRI" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

WORKDIR /data
USER 1000:1000
ENTRYPOINT ["/opt/sulcnet/entrypoint.sh"]
