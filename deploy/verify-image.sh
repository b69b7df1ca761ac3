#!/usr/bin/env bash
# Proves the image: builds it and runs it as a stranger would, against a real Kafka and the
# simulated API, with no right but the network. Ends with
#   0   everything holds
#   1   something does not; the last line says what
#   77  nothing was proven, because no container engine runs here and none can be started
#
# An engine that runs is used. Otherwise root with dockerd gets one of its own, for this run.
# The base is PYTHON_IMAGE (default: the Dockerfile's). Where it cannot be pulled, debootstrap
# makes one of Debian's Python. Everything made here is removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=.venv/bin/python
WORK=$(mktemp -d)
RUN=verify-image-$$
engine= kafka=

say() { printf '\n== %s\n' "$*"; }
fail() {
  docker logs "$RUN" 2>&1 | tail -20 || true
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}
skip() { printf 'SKIPPED, nothing proven: %s\n' "$*"; exit 77; }

cleanup() {
  local code=$?
  set +e
  trap - EXIT
  docker rm --force "$RUN" "$RUN-api" "$RUN-alone" >"$WORK/cleanup" 2>&1
  docker rmi --force "$RUN" "$RUN-api" "$RUN-base" >>"$WORK/cleanup" 2>&1
  [ -z "$kafka" ] || { kill "$kafka"; wait "$kafka"; }
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

health_is() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$1")" = "$2" ]; }

# refused WHAT COMMAND...: the command must fail inside the running container.
refused() {
  local what=$1
  shift
  if docker exec "$RUN" "$@" >"$WORK/refused" 2>&1; then fail "$what was possible"; fi
  printf '%s: %s\n' "$what" "$(tail -1 "$WORK/refused")"
}

# Within Docker's own limit, and with 0.
stop() {
  local began took code
  began=$(date +%s%N)
  docker stop "$RUN" >/dev/null
  took=$((($(date +%s%N) - began) / 1000000))
  code=$(docker inspect -f '{{.State.ExitCode}}' "$RUN")
  printf 'ended after %s ms with %s\n' "$took" "$code"
  docker logs "$RUN" 2>&1 | tail -1
  [ "$code" = 0 ] || fail "exit code $code"
  [ "$took" -lt 10000 ] || fail "it took too long"
}

start_engine() {
  command -v docker >/dev/null || skip "there is no docker command (Debian: docker.io)"
  docker info >/dev/null 2>&1 && return
  [ "$(id -u)" = 0 ] || skip "no engine runs, and only root can start one"
  command -v dockerd >/dev/null || skip "no engine runs, and there is no dockerd to start"
  # Without a bridge and firewall rules: everything here uses the host's network.
  setsid dockerd --data-root "$WORK/data" --exec-root "$WORK/exec" --pidfile "$WORK/pid" \
    --host "unix://$WORK/docker.sock" --group "$(id -gn)" --bridge none \
    --iptables=false --ip6tables=false >"$WORK/dockerd.log" 2>&1 &
  engine=$!
  export DOCKER_HOST=unix://$WORK/docker.sock
  for _ in $(seq 100); do
    docker info >/dev/null 2>&1 && return
    kill -0 "$engine" 2>/dev/null || break
    sleep 0.2
  done
  skip "dockerd does not start here: $(tail -1 "$WORK/dockerd.log")"
}

find_base() {
  base=${PYTHON_IMAGE:-$(sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile)}
  docker image inspect "$base" >/dev/null 2>&1 && return
  timeout 300 docker pull --quiet "$base" >/dev/null 2>&1 && return
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

build() { # TARGET TAG
  docker build --network host --target "$1" --tag "$2" \
    --build-arg "PYTHON_IMAGE=$base" --build-arg PIP_INDEX_URL \
    --build-arg HTTP_PROXY --build-arg HTTPS_PROXY --build-arg NO_PROXY \
    . >"$WORK/build.log" 2>&1 || fail "docker build: $(tail -5 "$WORK/build.log")"
}

free_port() {
  "$PYTHON" -c "import socket; s = socket.create_server(('', 0)); print(s.getsockname()[1])"
}

start_engine
say "Engine: $(docker version -f '{{.Server.Version}}'), $(docker info -f '{{.Driver}}')"
find_base
printf 'base: %s\n' "$base"

say "Build"
build publisher "$RUN"
build sandbox "$RUN-api"
printf 'size: %s MB, of which the base is %s MB\n' \
  $(($(docker image inspect -f '{{.Size}}' "$RUN") / 1000000)) \
  $(($(docker image inspect -f '{{.Size}}' "$base") / 1000000))

say "Kafka and the simulated API"
"$PYTHON" -m sandbox.kafka --data-dir "$WORK/kafka" --port 0 >"$WORK/kafka.log" 2>&1 &
kafka=$!
hardened=(--read-only --cap-drop ALL --security-opt no-new-privileges)
docker run --detach --name "$RUN-alone" --network none "${hardened[@]}" "$RUN-api" >/dev/null
docker run --detach --name "$RUN-api" --network host --no-healthcheck "${hardened[@]}" "$RUN-api" \
  --host=127.0.0.1 --port=0 >/dev/null
wait_for 180 "Kafka" grep -q "Kafka ready at" "$WORK/kafka.log"
bootstrap=$(grep -o '127\.0\.0\.1:[0-9]*' "$WORK/kafka.log" | head -1)
wait_for 30 "the simulated API" sh -c "docker logs $RUN-api | grep -q 'ready at'"
api=$(docker logs "$RUN-api" | grep -o 'http://[^ ]*')
printf 'Kafka at %s, API at %s\n' "$bootstrap" "$api"
wait_for 30 "the simulated API is healthy" health_is "$RUN-alone" healthy
printf 'simulated API, as the image starts it: healthy\n'

say "Without settings it ends with 2 and says why"
code=0
docker run --rm --network none "${hardened[@]}" "$RUN" || code=$?
[ "$code" = 2 ] || fail "exit code $code"

say "Told to stop while it starts, it ends at once"
mkfifo "$WORK/never-read"
chmod 0444 "$WORK/never-read"
docker run --detach --name "$RUN" --network none "${hardened[@]}" \
  --volume "$WORK/never-read:/config:ro" --env PUBLISHER_CONFIG=/config "$RUN" >/dev/null
caught=/proc/$(docker inspect -f '{{.State.Pid}}' "$RUN")/status
minds_sigterm() { (("0x$(awk '/^SigCgt:/ {print $2}' "$caught")" & 0x4000)); }
wait_for 30 "it minds SIGTERM" minds_sigterm
stop
docker rm "$RUN" >/dev/null

say "Run: own user, read-only, no capability"
install -m 0444 sandbox/wolkvox/token "$WORK/token"
port=$(free_port)
# Health is asked more often than by default, so that this script need not wait for minutes.
docker run --detach --name "$RUN" --network host "${hardened[@]}" --health-interval=2s \
  --volume "$WORK/token:/run/secrets/wolkvox-token:ro" \
  --env WOLKVOX_NAME=simulated --env "WOLKVOX_URL=$api" \
  --env WOLKVOX_TOKEN_FILE=/run/secrets/wolkvox-token \
  --env "KAFKA_BOOTSTRAP_SERVERS=$bootstrap" --env PUBLISHER_START=-10m \
  --env PUBLISHER_POLL_EVERY=1s --env PUBLISHER_OVERLAP=5s --env PUBLISHER_REREADS= \
  --env "PUBLISHER_HTTP_PORT=$port" "$RUN" >/dev/null
wait_for 60 "the container is healthy" health_is "$RUN" healthy
printf 'health: healthy\n'
pid=$(docker inspect -f '{{.State.Pid}}' "$RUN")
grep -E '^(Uid|Gid|CapEff|CapBnd|NoNewPrivs|VmRSS):' "/proc/$pid/status"
[ "$(awk '/^Uid:/ {print $2}' "/proc/$pid/status")" = 10001 ] || fail "it does not run as 10001"
[ "$(awk '/^CapBnd:/ {print $2}' "/proc/$pid/status")" = 0000000000000000 ] || fail "it holds capabilities"

say "Events arrive"
timeout 60 "$PYTHON" -m sandbox.consume --bootstrap-servers "$bootstrap" >"$WORK/events" 2>&1 &
consumer=$!
enough() { [ "$(wc -l <"$WORK/events")" -ge 20 ]; }
wait_for 60 "20 events" enough
kill "$consumer" && wait "$consumer" || true
head -3 "$WORK/events"
printf '%s events read\n' "$(wc -l <"$WORK/events")"

say "What a container must not do"
for path in / /opt/publisher /tmp /var/tmp; do
  refused "writing to $path" python -c "open('$path/written', 'w')"
done
refused "using pip" python -m pip --version
refused "using the base's pip" sh -c '"$(readlink -f "$(command -v python)")" -m pip --version'
refused "importing the sandbox" python -c "import sandbox"
for tool in gcc cc make curl git; do
  refused "running $tool" sh -c "command -v $tool || { echo not there; exit 1; }"
done

say "A process that no longer answers becomes unhealthy, and healthy when it goes on"
kill -STOP "$pid"
wait_for 60 "the frozen one is unhealthy" health_is "$RUN" unhealthy
docker inspect -f '{{range .State.Health.Log}}{{.Output}}{{end}}' "$RUN" | grep . | tail -1
printf 'health: unhealthy\n'
kill -CONT "$pid"
wait_for 30 "the thawed one is healthy" health_is "$RUN" healthy
printf 'health: healthy\n'

say "docker stop"
stop

printf "\nPROVEN: the image does what is promised\n"
