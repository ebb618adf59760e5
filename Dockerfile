# syntax=docker/dockerfile:1
# KVCrush Serve: server and command line. The model is not inside: mount it at /models.
#
#   docker build -t kvcrush-serve .
#   docker run -p 50051:50051 -p 9090:9090 -v "$PWD/.cache/models:/models:ro" \
#     -e KVCRUSH_MODEL=/models/SmolLM2-135M-Instruct.Q4_1.gguf kvcrush-serve
#
# For NVIDIA cards: --build-arg KVCRUSH_PRESET=cuda-release, and `docker run --gpus all -e KVCRUSH_DEVICE=cuda:0`.
# Behind a registry of your own: --secret id=pip_conf,src=pip.conf and --secret id=ca_bundle,src=ca.pem (pip.conf then says
# cert = /run/secrets/ca_bundle). Neither ends up in the image. How it is run: docs/operations/deploy.md.
ARG BASE_IMAGE=debian:12-slim
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu22.04
ARG KVCRUSH_PRESET=cpu-release

# /usr/local/cuda of a stage named after the preset: an empty folder, or the toolkit. The stage not asked for is not built.
FROM ${BASE_IMAGE} AS toolkit-cpu-release
RUN mkdir -p /usr/local/cuda

FROM ${CUDA_IMAGE} AS toolkit-cuda-release

# An indirection, because COPY --from takes no build argument. DL3006 wants a tag, but this names a stage above.
# hadolint ignore=DL3006
FROM toolkit-${KVCRUSH_PRESET} AS toolkit

# Downloads alone: this stage outlives changes of the code.
FROM ${BASE_IMAGE} AS deps
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY --from=toolkit /usr/local/cuda /usr/local/cuda
ENV PATH=/usr/local/cuda/bin:${PATH}
WORKDIR /src
COPY tools/setup.sh tools/packages.txt tools/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=ca_bundle \
    tools/setup.sh

FROM deps AS build
ARG KVCRUSH_PRESET
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY CMakeLists.txt CMakePresets.json ./
COPY cmake cmake
COPY proto proto
COPY engine engine
COPY server server
COPY client client
RUN --mount=type=cache,target=/var/cache/ccache \
    export CCACHE_DIR=/var/cache/ccache \
 && cmake --preset "${KVCRUSH_PRESET}" -DKVCRUSH_TESTS=OFF \
 && cmake --build --preset "${KVCRUSH_PRESET}" --target kvcrush-server kvcrush \
 && mkdir -p /out/bin /out/lib \
 && cp "build/${KVCRUSH_PRESET}/server/kvcrush-server" "build/${KVCRUSH_PRESET}/client/kvcrush" /out/bin/ \
 && strip /out/bin/*
# What the binaries load beyond Debian's packages. libtorch_cuda also wants cuBLAS, cuDNN, NCCL and others of torch's own
# wheels; only a CUDA image carries those.
WORKDIR /src/.cache/libtorch/torch/lib
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=ca_bundle \
    cp libc10.so libtorch_cpu.so libgomp.so.1 libcudart.so.13 libcupti.so.13 /out/lib/ \
 && if [ "${KVCRUSH_PRESET}" = cuda-release ]; then \
      cp libc10_cuda.so libtorch_cuda.so libtorch.so /out/lib/; \
      version=$(sed -n 's/^torch_version=//p' /src/tools/setup.sh); \
      python3 -m pip install --no-cache-dir --target /tmp/torch "torch==${version}"; \
      find /tmp/torch/nvidia -name '*.so*' -type f -exec cp -n {} /out/lib/ \; ; \
      rm -rf /tmp/torch; \
    fi

FROM ${BASE_IMAGE} AS runtime
LABEL org.opencontainers.image.title="KVCrush Serve" \
      org.opencontainers.image.description="LLM inference over gRPC with a KV cache pruned by KVCrush" \
      org.opencontainers.image.version="0.1.0"
# Debian keeps these versions for the life of its release; the star takes its security updates.
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      libgrpc++1.51=1.51.* \
      libprotobuf32=3.21.* \
      libprometheus-cpp-core1.0=1.0.* \
      libcivetweb1=1.15* \
      libspdlog1.10=1:1.10.* \
      libfmt9=9.1.* \
      libpcre2-8-0=10.42* \
      libutf8proc2=2.8.* \
      libssl3=3.0.* \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin kvcrush \
 && mkdir /models \
 && apt-get clean
COPY --from=build /out/lib /opt/kvcrush/lib
COPY --from=build /out/bin /usr/local/bin
# Fails the build when a library is missing, instead of the first start.
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN echo /opt/kvcrush/lib >/etc/ld.so.conf.d/kvcrush.conf \
 && ldconfig \
 && kvcrush --version \
 && if ldd /usr/local/bin/kvcrush-server | grep 'not found' | grep -v libcuda.so; then exit 1; fi
# Inside the container all interfaces; what is published is for `docker run -p` to say. Plaintext is allowed so that this image
# starts by itself and behind a service mesh that encrypts. Elsewhere mount a certificate and set KVCRUSH_TLS_CERT and
# KVCRUSH_TLS_KEY (docs/operations/security.md), with KVCRUSH_ALLOW_PLAINTEXT=false for a start that fails without them.
ENV KVCRUSH_ALLOW_PLAINTEXT=true \
    KVCRUSH_LISTEN=0.0.0.0:50051 \
    KVCRUSH_HTTP_LISTEN=0.0.0.0:9090 \
    KVCRUSH_MODEL=/models/model.gguf
USER 10001:10001
VOLUME /models
EXPOSE 50051 9090
STOPSIGNAL SIGTERM
# Over HTTP, which asks for no certificate and no token.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9090 && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q '^HTTP/1.1 200' <&3"]
ENTRYPOINT ["kvcrush-server"]
