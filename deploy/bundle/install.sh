#!/bin/sh
# Installs btfeed from this directory into a new virtual environment, without network.
set -eu
unset PYTHONPATH PYTHONHOME  # what is there would count as installed
fail() { echo "$1" >&2; exit 1; }

[ $# -eq 1 ] || fail "usage: sh install.sh DIRECTORY, for example: sh install.sh /opt/btfeed-@VERSION@"
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}

found=$("$python" -c 'import platform; print("Python", *platform.python_version_tuple()[:2], platform.machine())' 2>/dev/null) ||
    fail "$python does not run. This bundle needs Python @PYTHON@: name it, as in: PYTHON=python@PYTHON@ sh install.sh $1"
wanted=$(echo "Python @PYTHON@ @MACHINE@" | tr . ' ')
[ "$found" = "$wanted" ] || fail "this bundle is for '$wanted', and $python is '$found'. Name another one with PYTHON=, or make a bundle for this one"
"$python" -c 'import os, sys
release = os.confstr("CS_GNU_LIBC_VERSION").split()[1]
sys.exit(tuple(map(int, release.split("."))) < tuple(map(int, "@GLIBC@".split("."))))' ||
    fail "this bundle needs glibc @GLIBC@ or later"
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python has no venv module (Debian: apt-get install python3-venv)"
[ ! -e "$1" ] || fail "$1 exists. Name a new directory: each version has one of its own"

trap 'rm -rf "$1"; echo "nothing was installed" >&2' EXIT
trap 'exit 1' INT TERM
"$python" -m venv "$1"
"$1/bin/pip" --isolated --disable-pip-version-check install --quiet --no-index --find-links "$here/wheels" \
    --no-deps --require-hashes --requirement "$here/requirements.txt"
version=$("$1/bin/btfeed" --version)
trap - EXIT
echo "$1/bin/btfeed: $version"
