#!/usr/bin/env bash
# Everything Towers needs on this machine, into one virtual environment. Called by make; safe to run again.
#
#   deploy/setup.sh [EXTRA ...]      extras of pyproject.toml besides train, and FAISS, which is chosen here: cpu, or gpu where nvidia-smi sees one
#   PYTHON=path   the interpreter to build on (3.11 to 3.13)        VENV=path   where to build, .venv by default
#   TORCH=any     take whatever torch the package index offers, CUDA libraries and all, on a machine without a GPU too
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
TRITON_WHEEL="nvidia-pytriton==0.7.0" # holds tritonserver 2.51; only the binary is used, so none of its dependencies

say() { printf '>> %s\n' "$*"; }
die() {
    printf '\nsetup: %s\n\n' "$*" >&2
    exit 1
}

# apt_install WHAT-FOR PACKAGE...
apt_install() {
    local purpose=$1 as_root=()
    shift
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo -n)
        sudo -n true 2>/dev/null || die "$purpose missing, and installing it needs root. Run this, then make again:  sudo apt-get install $*"
    fi
    command -v apt-get >/dev/null || die "$purpose missing, and there is no apt-get here. Install what your system calls: $*"
    say "$purpose missing: apt-get install $*"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "$@" >/dev/null 2>&1 || {
        "${as_root[@]}" apt-get update -qq
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "$@" >/dev/null
    }
}

# describe INTERPRETER: prints "version prefix executable shared-library" (the library "-" where it has none); fails for another version.
describe() {
    "$1" - 2>/dev/null <<'PY'
import os, sys, sysconfig

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(1)
version = "%d.%d" % sys.version_info[:2]
folders = (sysconfig.get_config_var("LIBDIR") or "", sys.base_prefix + "/lib")
libraries = [os.path.join(folder, f"libpython{version}.so.1.0") for folder in folders]
print(version, sys.base_prefix, sys.executable, next(filter(os.path.exists, libraries), "-"))
PY
}

# Sets version, prefix, executable, library. Triton runs Python models in a program of its own, which loads the shared libpython: so an
# interpreter that has it comes first.
choose_python() {
    local candidate found="" candidates=(python3 python3.11 python3.12 python3.13)
    if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        read -r version prefix executable library < <(describe "$candidate") || continue
        if [ "$library" != - ]; then return 0; fi
        if [ -z "$found" ]; then found="$version $prefix $executable $library"; fi
    done
    [ -n "$found" ] || return 1
    read -r version prefix executable library <<<"$found"
}

make_environment() {
    if [ -x "$VENV/bin/python3" ] && "$VENV/bin/python3" -m pip --version >/dev/null 2>&1; then
        read -r version prefix executable library < <(describe "$VENV/bin/python3") || die "$VENV is not of Python 3.11 to 3.13. Run: make clean"
        if [ -n "${PYTHON:-}" ] && [ "$(describe "$PYTHON" | cut -d' ' -f1,2)" != "$version $prefix" ]; then
            die "$VENV was built on Python $version of $prefix, not on $PYTHON. Run make clean, then this again"
        fi
    else
        if ! choose_python; then
            if [ -n "${PYTHON:-}" ]; then die "$PYTHON is not a Python 3.11, 3.12 or 3.13 that runs"; fi
            apt_install "Python 3.11 to 3.13 is" python3 python3-venv
            choose_python || die "no Python 3.11 to 3.13 on this machine: install one and name it, make PYTHON=/path/to/python3"
        fi
        install_what_debian_keeps_apart
        say "virtual environment $VENV on $executable ($version)"
        "$executable" -m venv --clear "$VENV"
        "$VENV/bin/python3" -m pip install -qq --upgrade pip
    fi
}

install_what_debian_keeps_apart() {
    local packages=()
    "$executable" -c 'import ensurepip, venv' 2>/dev/null || packages+=("python$version-venv")
    if [ "$library" = - ]; then
        [ "$prefix" = /usr ] || die "$executable was built without its shared library, which Triton needs. Name another: make PYTHON=/usr/bin/python3"
        packages+=("libpython$version") # Triton loads it
    fi
    if [ ${#packages[@]} -gt 0 ]; then apt_install "part of Python $version is" "${packages[@]}"; fi
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }

# Prints what pip would install for a requirement: "nothing" (it is there), "cuda" (a build that draws in CUDA libraries) or "plain".
# Reads metadata only.
offered() {
    "$VENV/bin/python3" -m pip install -qq --dry-run --no-deps --report - "$1" | "$VENV/bin/python3" -c '
import json, re, sys
found = json.load(sys.stdin)["install"]
needed = [name for item in found for name in item["metadata"].get("requires_dist", [])]
print("nothing" if not found else "cuda" if any(re.match("(nvidia|cuda)-", name) for name in needed) else "plain")'
}

install_torch() {
    local requirement
    requirement=$("$VENV/bin/python3" -c '
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(next(d for d in project["optional-dependencies"]["train"] if d.startswith("torch>")))')
    if ! has_gpu && [ "${TORCH:-cpu}" != any ] && [ "$(offered "$requirement")" = cuda ]; then
        # uv knows by itself where PyTorch keeps its builds without CUDA
        say "$requirement, a build for the CPU"
        "$VENV/bin/python3" -m pip install -qq uv
        "$VENV/bin/uv" pip install -q --python "$VENV/bin/python3" --torch-backend=cpu "$requirement" || die \
            "no torch for the CPU: pip is offered only builds with CUDA (over 2 GB, and there is no GPU here), and PyTorch's own CPU builds" \
            "were not reached. Either put one into $VENV yourself (pytorch.org says how) and run make again, or accept CUDA: make TORCH=any"
    else
        say "$requirement"
        "$VENV/bin/python3" -m pip install -qq "$requirement"
    fi
}

install_packages() {
    local faiss=cpu extras
    if has_gpu; then faiss=gpu; fi
    extras=$(IFS=,; echo "$faiss train $*" | tr ' ' ',' | sed 's/,*$//')
    say "towers[$extras]"
    "$VENV/bin/python3" -m pip install -qq -e ".[$extras]"
}

install_triton() {
    local folder missing
    say "$TRITON_WHEEL"
    "$VENV/bin/python3" -m pip install -qq --no-deps "$TRITON_WHEEL"
    folder=$("$VENV/bin/python3" -c '
import importlib.util
print(importlib.util.find_spec("pytriton").submodule_search_locations[0])')/tritonserver
    cp "$folder/python_backend_stubs/$version/triton_python_backend_stub" "$folder/backends/python/"
    missing=$(ldd "$folder/bin/tritonserver" | grep 'not found' || true)
    [ -z "$missing" ] || die "tritonserver lacks: $missing"
    command -v setpriv >/dev/null || apt_install "setpriv is" util-linux
}

# The tests of the Redis store start a server of their own.
install_redis_server() {
    command -v redis-server >/dev/null || apt_install "redis-server, which the tests start, is" redis-server
}

# The tests ask real ones whether alerts and dashboard are right. Unpacked rather than installed: apt would start it as a service.
install_prometheus() {
    local folder
    if command -v promtool >/dev/null || [ -x "$VENV/bin/promtool" ]; then return; fi
    command -v apt-get >/dev/null || die "prometheus, which the tests start, is missing, and there is no apt-get here. Put it on PATH"
    say "prometheus, into $VENV"
    folder=$(mktemp -d)
    (cd "$folder" && { apt-get download -qq prometheus >/dev/null 2>&1 || { apt_refresh && apt-get download -qq prometheus >/dev/null; }; })
    dpkg-deb -x "$folder"/prometheus_*.deb "$folder/unpacked"
    install -m 755 "$folder"/unpacked/usr/bin/prometheus "$folder"/unpacked/usr/bin/promtool "$VENV/bin/"
    rm -rf "$folder"
}

apt_refresh() { if [ "$(id -u)" -eq 0 ]; then apt-get update -qq; else sudo -n apt-get update -qq; fi; }

# The tests of the page look at it in a real browser.
install_chromium() {
    command -v chromium >/dev/null || apt_install "chromium, in which the tests look at the page, is" chromium
}

check_machine() {
    [ "$(uname -s)" = Linux ] || die "the Triton server runs on Linux only; this is $(uname -s)"
    local glibc
    glibc=$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)
    [ "$(printf '%s\n' 2.35 "$glibc" | sort -V | head -n 1)" = 2.35 ] || die "the Triton server needs glibc 2.35 (Debian 12); this is $glibc"
}

check_machine
make_environment
install_torch
install_packages "$@"
install_triton
case " $* " in *" dev "*) install_redis_server; install_prometheus; install_chromium ;; esac
say "ready: $("$VENV/bin/python3" -c 'import sys, torch; print("Python", sys.version.split()[0], "torch", torch.__version__)')"
