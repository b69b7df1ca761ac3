# Sourced by the scripts that prove something on a real engine: the engine, the base image, tidying
# up. Before sourcing it they set RUN, the name of everything they make, and define `remove`, which
# undoes what they did, and `tell`, which shows what a person needs to see after a failure.
# They end with
#   0   everything holds
#   1   something does not; the last line says what
#   77  nothing was proven; one line says why
#
# An engine that runs is used. Otherwise root with dockerd gets one of its own, for this run.
# The base is PYTHON_IMAGE (default: the Dockerfile's). Where it cannot be pulled, debootstrap
# makes one of Debian's Python. Everything made here is removed at the end.

ROOT=$PWD
PYTHON=$ROOT/.venv/bin/python
WORK=$(mktemp -d)
engine=

say() { printf '\n== %s\n' "$*"; }
fail() {
  tell || true
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}
skip() { printf 'SKIPPED, nothing proven: %s\n' "$*"; exit 77; }

cleanup() {
  local code=$?
  set +e
  trap - EXIT
  remove >"$WORK/cleanup" 2>&1
  docker rmi --force "$RUN-base" >>"$WORK/cleanup" 2>&1
  [ -z "$engine" ] || { kill "$engine"; wait "$engine"; }
  umount "$WORK"/exec/netns/* 2>/dev/null
  rm -rf "$WORK"
  exit "$code"
}
trap cleanup EXIT

# wait_for SECONDS WHAT COMMAND...
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >"$WORK/waited" 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "not in time: $what: $(tail -3 "$WORK/waited")"
    sleep 0.2
  done
}

# timed COMMAND...: how many milliseconds it took, in `took`.
timed() {
  local began
  began=$(date +%s%N)
  "$@"
  took=$((($(date +%s%N) - began) / 1000000))
}

health_is() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$1")" = "$2" ]; }

start_engine() {
  command -v docker >/dev/null || skip "there is no docker command (Debian: docker.io)"
  docker info >/dev/null 2>&1 && return
  [ "$(id -u)" = 0 ] || skip "no engine runs, and only root can start one"
  command -v dockerd >/dev/null || skip "no engine runs, and there is no dockerd to start"
  # Nothing of this machine's network is changed: no bridge by default, no firewall rules.
  setsid dockerd --data-root "$WORK/data" --exec-root "$WORK/exec" --pidfile "$WORK/pid" \
    --host "unix://$WORK/docker.sock" --group "$(id -gn)" --bridge none \
    --iptables=false --ip6tables=false --ip-forward=false >"$WORK/dockerd.log" 2>&1 &
  engine=$!
  export DOCKER_HOST=unix://$WORK/docker.sock
  for _ in $(seq 100); do
    docker info >/dev/null 2>&1 && return
    kill -0 "$engine" 2>/dev/null || break
    sleep 0.2
  done
  skip "dockerd does not start here: $(tail -1 "$WORK/dockerd.log")"
}

# Whether the engine holds an image, or can pull it.
has_image() {
  docker image inspect "$1" >/dev/null 2>&1 || timeout 300 docker pull --quiet "$1" >/dev/null 2>&1
}

find_base() {
  base=${PYTHON_IMAGE:-$(sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile)}
  has_image "$base" && return
  command -v debootstrap >/dev/null || skip "$base cannot be pulled, and there is no debootstrap"
  [ "$(id -u)" = 0 ] || skip "$base cannot be pulled, and only root can make another base"
  printf '%s cannot be pulled: making a base with debootstrap (a minute)\n' "$base"
  local root=$WORK/root option value
  debootstrap --variant=minbase --include=python3,python3-pip,ca-certificates \
    bookworm "$root" >"$WORK/debootstrap.log" 2>&1 || fail "debootstrap: $(tail -1 "$WORK/debootstrap.log")"
  # As in slim images: no bytecode, no package lists.
  find "$root" -name __pycache__ -prune -exec rm -rf {} +
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
  # Packages are found and trusted as they are on this machine.
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$root/etc/pip.conf"
  for option in index-url extra-index-url trusted-host; do
    value=$("$PYTHON" -m pip config get "global.$option" 2>/dev/null) || continue
    printf '%s = %s\n' "$option" "$value" >>"$root/etc/pip.conf"
  done
  base=$RUN-base
  tar -C "$root" -c . | docker import - "$base" >/dev/null
  rm -rf "$root"
}

# build_image TAG ARGUMENT...: with the network of this machine, because ours has no way out.
build_image() {
  local tag=$1
  shift
  docker build --network host --tag "$tag" --build-arg "PYTHON_IMAGE=$base" \
    --build-arg HTTP_PROXY --build-arg HTTPS_PROXY --build-arg NO_PROXY \
    "$@" >"$WORK/build.log" 2>&1 || fail "docker build: $(tail -5 "$WORK/build.log")"
}
