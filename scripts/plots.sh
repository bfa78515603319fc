#!/usr/bin/env bash
# Installs what bench/report.py draws with (bench/requirements.txt) for this python3, once, in a cache folder that checkouts share and
# where bench/figures.py looks. Does nothing where python3 has matplotlib.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/smalti
home=$cache/plots-$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')

say() { echo "plots.sh: $*" >&2; }
works() { PYTHONPATH=$here/bench python3 -c 'import figures' >/dev/null 2>&1; }

if works; then exit; fi
mkdir -p "$cache"
exec 9>"$home.lock"
flock 9                                            # another checkout may be installing it now
if works; then exit; fi
if ! python3 -m pip --version >/dev/null 2>&1; then say "no pip to install matplotlib with: install python3-pip or python3-matplotlib"; exit 1; fi
say "installing $(tr '\n' ' ' <"$here/bench/requirements.txt")into $home"
temporary=$(mktemp -d "$cache/installing.XXXXXX")
trap 'rm -rf "$temporary"' EXIT
if ! python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --only-binary :all: --target "$temporary/tree" \
    -r "$here/bench/requirements.txt" >"$temporary/log" 2>&1; then
  say "matplotlib could not be installed from the Python package index (is there a network? pip: $(tail -1 "$temporary/log"))"
  exit 1
fi
rm -rf "$home"
mv "$temporary/tree" "$home"
if ! works; then say "the installed matplotlib does not work: $(PYTHONPATH=$here/bench python3 -c 'import figures' 2>&1 | tail -1)"; exit 1; fi
