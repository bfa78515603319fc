#!/usr/bin/env bash
# Prints the path of a Conan 2: the one of SMALTI_CONAN or of the PATH; where there is none, a pinned one of the Python index is
# installed once, in a cache folder that checkouts share. The path is the only thing on stdout.
#   scripts/conan.sh [--no-install]
set -euo pipefail
version=2.34.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/smalti
home=$cache/conan-$version

say() { echo "conan.sh: $*" >&2; }
works() { "$1" --version 2>/dev/null | grep -q '^Conan version 2\.'; }

if [ -n "${SMALTI_CONAN:-}" ]; then
  if works "$SMALTI_CONAN"; then echo "$SMALTI_CONAN"; exit; fi
  say "SMALTI_CONAN=$SMALTI_CONAN is not a Conan 2: unset it or name one"
  exit 1
fi
found=$(command -v conan || true)
if [ -n "$found" ] && works "$found"; then echo "$found"; exit; fi
if works "$home/conan"; then echo "$home/conan"; exit; fi
if [ "${1:-}" = --no-install ]; then say "no Conan 2 is installed"; exit 1; fi

mkdir -p "$cache"
exec 9>"$cache/conan-$version.lock"
flock 9                                            # another checkout may be installing it now
if works "$home/conan"; then echo "$home/conan"; exit; fi
python=
for candidate in python3 /usr/bin/python3; do
  if "$candidate" -m pip --version >/dev/null 2>&1; then python=$(command -v "$candidate"); break; fi
done
if [ -z "$python" ]; then say "no pip to install Conan with: install python3-pip"; exit 1; fi
say "installing Conan $version into $home"
temporary=$(mktemp -d "$cache/installing.XXXXXX")
trap 'rm -rf "$temporary"' EXIT
if ! "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --target "$temporary/tree" "conan==$version" \
    >"$temporary/log" 2>&1; then
  say "Conan $version could not be installed from the Python package index (is there a network? pip: $(tail -1 "$temporary/log"))"
  exit 1
fi
rm -rf "$home"
mkdir "$home"
mv "$temporary/tree" "$home/tree"
printf '#!/bin/sh\nPYTHONPATH="%s" exec "%s" -m conans.conan "$@"\n' "$home/tree" "$python" >"$home/conan"
chmod +x "$home/conan"
if ! works "$home/conan"; then say "the installed Conan does not run: $("$home/conan" --version 2>&1 | tail -1)"; exit 1; fi
echo "$home/conan"
