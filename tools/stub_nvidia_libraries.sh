#!/usr/bin/env bash
# Makes stand-ins for the NVIDIA libraries that torch's CUDA wheel is linked with, so that it loads on a machine without
# them: every function that torch names is there, and ends the process when it is called.
set -euo pipefail
[[ $# -eq 2 ]] || { echo "usage: $0 TORCH_LIB_DIR OUT_DIR" >&2; exit 2; }
torch_lib=$1 out=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
nm -D --undefined-only "$torch_lib"/libtorch_{cuda,nvshmem,python}.so | awk '$1 == "U" { print $2 }' | sort -u >"$work/wanted"

# stub SONAME FUNCTIONS [VERSION]: FUNCTIONS is a regular expression, VERSION the node that they are looked up in.
stub() {
  local soname=$1 functions=$2 version=${3:-} script=()
  sed -nE "s/^($functions)(@.*)?\$/void \1(void) { __builtin_trap(); }/p" "$work/wanted" | sort -u >"$work/stub.c"
  if [[ -n "$version" ]]; then
    echo "$version { global: *; };" >"$work/stub.map"
    script=("-Wl,--version-script=$work/stub.map")
  fi
  # -w: compilers know some of these names as functions with parameters.
  gcc -shared -fPIC -nostdlib -w -Wl,-soname,"$soname" "${script[@]}" -o "$out/$soname" "$work/stub.c"
}

stub libcublas.so.13 'cublas([^L]|L[^t])\w*' libcublas.so.13
stub libcublasLt.so.13 'cublasLt\w*' libcublasLt.so.13
stub libcudnn.so.9 'cudnn\w*' libcudnn.so.9
stub libcufft.so.12 'cufft\w*' libcufft.so.12
stub libcufile.so.0 'cuFile\w*'
stub libcurand.so.10 'curand\w*'
stub libcusparse.so.12 'cusparse[^L]\w*' libcusparse.so.12
stub libcusparseLt.so.0 'cusparseLt\w*'
stub libnccl.so.2 'nccl\w*'
stub libnvshmem_host.so.3 'nvshmem\w*' NVSHMEM
