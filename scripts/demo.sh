#!/usr/bin/env bash
# Sets up, builds what the main job needs and runs it: the ladder of matrix products on real shapes, with what ran
# where, its error against the oracle and its speed against the machine's limit.
#   scripts/demo.sh [arguments of the demo...]
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh build
if [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
cmake -S . -B build/demo -DCMAKE_BUILD_TYPE=Release -DSMALTI_CUDA=OFF -DSMALTI_TESTS=OFF -DSMALTI_BENCH=OFF >/dev/null
cmake --build build/demo --target smalti.demo -j "$(nproc)"
exec build/demo/examples/smalti.demo "$@"
