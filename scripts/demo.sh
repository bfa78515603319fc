#!/usr/bin/env bash
# Sets up, builds and runs the main job: a question to a real language model, answered by smalti on the processor. The model is
# downloaded once (93 MB); without a network the tiny one that lies in examples/models/kjv-5m writes instead.
#   scripts/demo.sh [options of generate...]       scripts/demo.sh --ladder      matrix products against the machine's limits
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh demo
if [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
cmake -S . -B build/demo -DCMAKE_BUILD_TYPE=Release -DSMALTI_CUDA=OFF -DSMALTI_TESTS=OFF -DSMALTI_BENCH=OFF >/dev/null
if [ "${1:-}" = --ladder ]; then
  shift
  cmake --build build/demo --target example.01_gemm_ladder -j "$(nproc)"
  exec build/demo/examples/example.01_gemm_ladder "$@"
fi
cmake --build build/demo --target generate -j "$(nproc)"
generate=build/demo/examples/generate/generate
if [ $# -gt 0 ]; then
  case " $* " in
    *" --model "*) exec $generate "$@" ;;
  esac
fi
if model=$(bash scripts/model.sh); then
  [ $# -gt 0 ] || set -- --prompt "Why is the sky blue? Answer in two sentences." --length 96
else
  echo "demo.sh: no model could be downloaded: examples/models/kjv-5m, which knows one old book, takes its place" >&2
  model=examples/models/kjv-5m
  [ $# -gt 0 ] || set -- --prompt "And God said, " --length 160
fi
exec $generate --model "$model" "$@"
