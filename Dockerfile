# syntax=docker/dockerfile:1
#
#   docker build -t stateshape .                                        CPU, about 2 GB
#   docker build -t stateshape:cuda --build-arg TORCH=default .         with CUDA, about 6 GB; run it with --gpus all
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/studies" -v stateshape-cache:/cache stateshape study smoke --out studies/smoke
#
# EXTRAS names optional dependencies, e.g. --build-arg EXTRAS=hub,math.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# Not by --build-constraint: the pip of this image may be older than 25.3.
RUN pip install --no-cache-dir -c constraints.txt hatchling && \
    pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH=cpu
ARG EXTRAS=
COPY constraints.txt /tmp/constraints.txt
# A layer of its own: it is most of the image, and changes seldom.
RUN version="$(sed -n 's/^torch==//p' /tmp/constraints.txt)" && \
    case "$TORCH" in \
      cpu) pip install --no-cache-dir -c /tmp/constraints.txt \
             --extra-index-url https://download.pytorch.org/whl/cpu "torch==$version+cpu" ;; \
      default) pip install --no-cache-dir -c /tmp/constraints.txt torch ;; \
      *) echo "TORCH: got $TORCH; expected cpu or default" >&2; exit 2 ;; \
    esac
COPY --from=wheel /wheels /wheels
RUN wheel="$(echo /wheels/stateshape-*.whl)" && \
    pip install --no-cache-dir -c /tmp/constraints.txt "$wheel${EXTRAS:+[$EXTRAS]}" && \
    mkdir -m 1777 /studies /cache
# Models from the hub and plots' fonts are kept in /cache; HOME, so that any --user can write there.
ENV HOME=/cache HF_HOME=/cache/huggingface MPLCONFIGDIR=/cache/matplotlib
USER 1000:1000
WORKDIR /studies
ENTRYPOINT ["stateshape"]
CMD ["--help"]
