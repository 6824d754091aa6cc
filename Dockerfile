# docker build -t hrrsi .                            maps and scores on the CPU, without torch
# docker build -t hrrsi:train --target train .       trains too, on the CPU
# docker build -t hrrsi:cuda --target cuda .         all that, on an NVIDIA GPU
# docker buildx build --platform linux/arm64 --target board -t hrrsi:board --load .
#                                                    maps and scores on an ARM64 board (Linux with
#                                                    QEMU's handlers builds it elsewhere, slowly)
# docker run --rm -v "$PWD:/data" --user "$(id -u):$(id -g)" hrrsi predict scene.tif
# (for hrrsi:train also --shm-size 2g: processes that load pass batches through shared memory)
#
# tests/test_dockerfile.py replays the install steps in a clean environment (no image is built).

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/hrrsi
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY hrrsi ./hrrsi
RUN --mount=type=cache,target=/root/.cache/pip /opt/hrrsi/bin/pip install -c constraints.txt .

FROM build AS build-board
RUN --mount=type=cache,target=/root/.cache/pip /opt/hrrsi/bin/pip install -c constraints.txt '.[onnxruntime]'

FROM build AS build-train
RUN --mount=type=cache,target=/root/.cache/pip /opt/hrrsi/bin/pip install -c constraints.txt '.[all]'

FROM python:3.11-slim-bookworm AS runtime
# libexpat1: GDAL inside rasterio.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libexpat1 \
    && rm -rf /var/lib/apt/lists/*
# Caches go where any user may write, since --user often names one that has no home.
ENV PATH=/opt/hrrsi/bin:$PATH \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    HF_HOME=/tmp/huggingface \
    HRRSI_CACHE=/tmp/hrrsi
RUN useradd --create-home --uid 1000 hrrsi && install -d -o hrrsi -g hrrsi /data
USER hrrsi
WORKDIR /data
ENTRYPOINT ["hrrsi"]
CMD ["--help"]

# This image carries torch's CUDA libraries, on a CPU unused: torch links to them, so they cannot be
# removed, and torchvision did not import beside the CPU-only build of this torch.
FROM runtime AS train
USER root
# libgl1, libglib2.0-0: OpenCV, which training augments with.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build-train /opt/hrrsi /opt/hrrsi
USER hrrsi

# torch brings its own CUDA libraries; the host gives the driver (docker run --gpus all).
FROM train AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# For boards, of either processor: both runtimes, to take the faster one (hrrsi profile --latency).
# OpenVINO's wheel for ARM64 wants glibc 2.35, which this base has.
FROM runtime AS board
COPY --from=build-board /opt/hrrsi /opt/hrrsi

FROM runtime AS cpu
COPY --from=build /opt/hrrsi /opt/hrrsi
