#!/usr/bin/env bash
# Looks for what a build needs; installs missing Debian packages when root, else names them.
#   scripts/setup.sh [all|demo|build]      all: tests and benchmarks too (default); demo: what the main job needs; build: compiler, CMake, Ninja
# Prints nothing when nothing is missing. Compilers other than the default: CXX.
set -euo pipefail
what=${1:-all}
cxx=${CXX:-g++}

has_command() { command -v "$1" >/dev/null 2>&1; }
has_header() { echo "#include <$1>" | "$cxx" -std=c++20 -x c++ -E ${2:-} - >/dev/null 2>&1; }
has_pip() { python3 -m pip --version >/dev/null 2>&1 || /usr/bin/python3 -m pip --version >/dev/null 2>&1; }
has_clang_openmp() { has_command clang++ && echo 'int main() {}' | clang++ -fopenmp -x c++ - -o /dev/null >/dev/null 2>&1; }
has_openblas() { has_header cblas.h || has_header openblas-pthread/cblas.h || has_header openblas/cblas.h ||
  has_header "$(uname -m)-linux-gnu/openblas-pthread/cblas.h"; }

# Debian's openmpi-bin holds mpirun; any other MPI with a compiler wrapper and mpiexec will do.
has_mpi() { has_command mpicxx && has_command mpiexec; }

look() {
  missing=()
  has_command "$cxx" || missing+=(g++)
  has_command cmake || missing+=(cmake)
  has_command ninja || missing+=(ninja-build)
  has_command python3 || missing+=(python3)
  if [ "$what" != build ]; then
    has_pip || missing+=(python3-pip)
    has_header nlohmann/json.hpp || missing+=(nlohmann-json3-dev)
    has_header pcre2.h -DPCRE2_CODE_UNIT_WIDTH=8 || missing+=(libpcre2-dev)
  fi
  if [ "$what" = all ]; then
    has_header catch2/catch.hpp || has_header catch2/catch_all.hpp || missing+=(catch2)
    has_header benchmark/benchmark.h || missing+=(libbenchmark-dev)
    has_header dnnl.hpp || missing+=(libdnnl-dev)
    has_openblas || missing+=(libopenblas-dev)
    has_command pkg-config || missing+=(pkg-config)
    has_command clang++ || missing+=(clang)
    has_clang_openmp || missing+=(libomp-dev)
    has_mpi || missing+=(libopenmpi-dev openmpi-bin)
  fi
}

look
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" -eq 0 ] && has_command apt-get; then
  echo "setup.sh: installing ${missing[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  # A package list that is there may be enough; an old or absent one is refreshed once.
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
    { apt-get update -qq >&2 && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; } || true
  wanted="${missing[*]}"
  look
  if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
  echo "setup.sh: of $wanted these could not be installed: ${missing[*]}" >&2
else
  echo "setup.sh: missing Debian packages: apt-get install ${missing[*]}" >&2
fi
# Without these nothing can be built; without the others some tests or benchmarks are missing, and CMake says which.
for package in "${missing[@]}"; do
  case $package in
    g++ | cmake) exit 1 ;;
    catch2) [ "$what" != all ] || exit 1 ;;
    nlohmann-json3-dev | libpcre2-dev) [ "$what" != demo ] || exit 1 ;;
  esac
done
