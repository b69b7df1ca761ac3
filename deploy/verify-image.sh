#!/usr/bin/env bash
# Proves the image: builds it and runs it as a stranger would, against a real Kafka and the
# simulated API, with no right but the network. How it ends, and on what it runs: deploy/lib.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

RUN=verify-image-$$
kafka=
remove() {
  docker rm --force "$RUN" "$RUN-api" "$RUN-alone"
  docker rmi --force "$RUN" "$RUN-api"
  [ -z "$kafka" ] || { kill "$kafka"; wait "$kafka"; }
}
tell() { docker logs "$RUN" 2>&1 | tail -20; }
. deploy/lib.sh

# refused WHAT COMMAND...: the command must fail inside the running container.
refused() {
  local what=$1
  shift
  if docker exec "$RUN" "$@" >"$WORK/refused" 2>&1; then fail "$what was possible"; fi
  printf '%s: %s\n' "$what" "$(tail -1 "$WORK/refused")"
}

# Within Docker's own limit, and with 0.
stop() {
  local code
  timed docker stop "$RUN" >"$WORK/stopped"
  code=$(docker inspect -f '{{.State.ExitCode}}' "$RUN")
  printf 'ended after %s ms with %s\n' "$took" "$code"
  docker logs "$RUN" 2>&1 | tail -1
  [ "$code" = 0 ] || fail "exit code $code"
  [ "$took" -lt 10000 ] || fail "it took too long"
}

free_port() {
  "$PYTHON" -c "import socket; s = socket.create_server(('', 0)); print(s.getsockname()[1])"
}

start_engine
say "Engine: $(docker version -f '{{.Server.Version}}'), $(docker info -f '{{.Driver}}')"
find_base
printf 'base: %s\n' "$base"

say "Build"
build_image "$RUN" --build-arg PIP_INDEX_URL --target publisher .
build_image "$RUN-api" --build-arg PIP_INDEX_URL --target sandbox .
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
