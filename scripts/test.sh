#!/usr/bin/env bash
# Sets up, builds and runs the tests through ctest, the GPU compile checks included.
#   scripts/test.sh [--all] [ctest arguments...]
#     --all    also the long tests, the sanitizers' builds, one at -O3 (the others, at -O1, take two thirds of its time to compile), and
#              with an nvcc the GPU's tests and benchmarks, compiled whole for sm_90
#   JOBS=n     processes at a time (default: 2, or what the machine has if that is less)
set -euo pipefail
cd "$(dirname "$0")/.."
all=
if [ "${1:-}" = --all ]; then all=1; shift; fi
processors=$(nproc)
jobs=${JOBS:-$((processors < 2 ? processors : 2))}
say() { echo "test.sh: $*"; }

bash scripts/setup.sh
if [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi

# The tests that compile for GPUs find nvcc here. Without one the host half is built and tested all the same.
if root=$(bash scripts/cuda.sh); then
  say "GPU compile checks with $("$root/bin/nvcc" --version | sed -nE 's/.*(release [0-9.]+).*/\1/p' | head -1) in $root"
else
  root=
  say "no nvcc of 13.3 or newer: the GPU compile checks are left out; everything else runs"
fi

bash scripts/conan.sh >/dev/null || say "no Conan 2: the test package.conan is skipped; everything else runs"
bash scripts/plots.sh || say "no matplotlib: the test bench.figures_test is skipped; everything else runs"

nccl=$(bash scripts/nccl.sh) || { nccl=; say "no NCCL: smalti::nccl is not compiled; everything else runs"; }

# One preset: configure, build, ctest. Extra arguments go to ctest.
run() {
  local preset=$1
  shift
  local cuda=
  [ "$preset" = host ] && cuda="-DSMALTI_CUDA_ROOT=$root -DNCCL_ROOT=$nccl"
  cmake --preset "$preset" $cuda >/dev/null
  cmake --build "build/$preset" -j "$jobs"
  # A GPU test that is skipped says why; ctest's closing line counts it apart.
  ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j "$jobs" "$@"
}

if [ -n "$all" ]; then
  run asan "$@"
  if command -v clang++ >/dev/null; then run tsan "$@"; else say "no clang++: the thread sanitizer is left out"; fi
  run release -LE long "$@"
  if [ -n "$root" ]; then
    cmake --preset cuda -DCMAKE_CUDA_COMPILER="$root/bin/nvcc" -DSMALTI_CUDA_ARCHITECTURES=90 >/dev/null
    cmake --build build/cuda --target smalti.gpu -j "$jobs"
  fi
  run host "$@"
else
  run host -LE long "$@"
fi
