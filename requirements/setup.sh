#!/bin/sh
# Makes .venv from the hashed locks, in the project's folder: `sh requirements/setup.sh`, or `make setup`.
# PYTHON may name the interpreter; without it the first suitable one on the PATH is taken.
#
# pip comes with every Python, so it begins: with the build tools, and with uv, which fills the rest in
# 15-25 s where pip needs 85 (2 cores; most of it goes into pyspark, which is published as source only).
# Where uv cannot be had or fails, pip goes on.
set -eu
venv=.venv
cache=$venv/cache

is_suitable() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
        >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if is_suitable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "No Python 3.10-3.13 with venv and ensurepip found${PYTHON:+ as $PYTHON}: install one" \
        "(Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python@3.13)" \
        "or name it: make PYTHON=/path/to/python3" >&2
    exit 1
}

pip_install() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --require-hashes --no-deps --no-build-isolation "$@"
}

# uv reads neither pip's variables nor its files, so it is told which index and certificates pip uses.
pip_setting() {
    for section in :env: install global; do
        "$venv/bin/python" -m pip config get "$section.$1" 2>/dev/null && return
    done
    true
}

# pyspark's wheel is installed at once and thrown away: not compressing 450 MB of jars saves 10 s.
uv_install() (
    index=${UV_DEFAULT_INDEX:-$(pip_setting index-url)}
    certificates=${SSL_CERT_FILE:-$(pip_setting cert)}
    [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
    [ -z "$certificates" ] || export SSL_CERT_FILE="$certificates"
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --cache-dir "$cache" \
        --system-certs --require-hashes --no-deps --no-build-isolation \
        --config-settings-package pyspark:--build-option=--compression=stored "$@"
)

python=$(find_python)
echo "Setting up $venv with $("$python" --version), which takes about a minute"
"$python" -m venv --clear "$venv"
pip_install -r requirements/build.txt
if ! { pip_install --only-binary :all: -r requirements/uv.txt && uv_install -r requirements/dev.txt; }; then
    echo "uv did not get through; going on with pip, which takes about two minutes" >&2
    pip_install -r requirements/dev.txt
fi
rm -rf "$cache"
