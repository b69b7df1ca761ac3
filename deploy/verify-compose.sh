#!/usr/bin/env bash
# Proves docker-compose.yml by doing what docs/how-to/container.md says, in a copy of the repository:
# with the simulated API, then with a server and a token from .env. Meanwhile processes are killed.
# How it ends, and on what it runs: deploy/lib.sh. A Compose that is missing is built with Go.
# Where apache/kafka cannot be pulled, an engine of our own gets a stand-in of that name.
set -euo pipefail
cd "$(dirname "$0")/.."

COMPOSE=2.40.3 # what is built where there is none
RUN=verify-compose-$$
# Before anything can fail: what is taken down at the end is ours, and nobody else's project.
export RUN COMPOSE_PROJECT_NAME=$RUN COMPOSE_FILE=docker-compose.yml:deploy/verify-compose.yml
remove() {
  docker compose down --volumes --timeout 1
  docker rmi --force "$RUN-publisher" "$RUN-api"
}
tell() { docker compose logs --tail 10 | cut -c 1-300; }
. deploy/lib.sh

find_compose() {
  docker compose version >/dev/null 2>&1 && return
  local plugin=${SANDBOX_CACHE:-$ROOT/.cache}/compose-$COMPOSE module=github.com/docker/compose/v2
  if [ ! -x "$plugin" ]; then
    command -v go >/dev/null || skip "docker has no compose, and there is no Go to build it"
    printf 'docker has no compose: building it with Go (once, some minutes)\n'
    mkdir "$WORK/module"
    # As a dependency, not by `go install`, which refuses modules that exclude versions.
    (cd "$WORK/module" && go mod init plugin && go get "$module/cmd@v$COMPOSE" &&
      go build -o plugin -ldflags "-X $module/internal.Version=v$COMPOSE" "$module/cmd") \
      >"$WORK/go.log" 2>&1 || skip "compose cannot be built: $(tail -1 "$WORK/go.log")"
    mkdir -p "$(dirname "$plugin")"
    mv "$WORK/module/plugin" "$plugin"
  fi
  export DOCKER_CONFIG=$WORK/docker
  mkdir -p "$DOCKER_CONFIG/cli-plugins"
  ln -s "$(realpath "$plugin")" "$DOCKER_CONFIG/cli-plugins/docker-compose"
}

find_kafka() {
  local image context=$WORK/kafka
  image=$(sed -n 's/^ *image: \(apache\/kafka:.*\)/\1/p' docker-compose.yml)
  has_image "$image" && return
  [ -n "$engine" ] || skip "$image cannot be pulled"
  printf '%s cannot be pulled: making a stand-in of Kafka'\''s jars (some minutes)\n' "$image"
  mkdir "$context"
  cp -r "$("$PYTHON" -c 'from sandbox.kafka import install; print(install.jars())')" "$context/lib"
  cp deploy/stand-in/kafka.sh "$context"
  build_image "$image" --file deploy/stand-in/kafka.dockerfile "$context"
}

container() { docker compose ps --all --quiet "$1"; }
state() { docker inspect -f "{{.$2}}" "$(container "$1")"; }
# Without grep's -q, which ends before all is written: a broken pipe would look like "not found".
says() { docker compose logs --no-log-prefix publisher | grep "$1" >/dev/null; }
restarted() { [ "$(state "$1" RestartCount)" -gt "$2" ] && [ "$(state "$1" State.Status)" = running ]; }
ended_with() { [ "$(state "$1" State.ExitCode)" = "$2" ]; }
port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# As a crash: what `docker kill` ends, the engine takes for stopped on purpose.
kill_9() { # SERVICE
  local before
  before=$(state "$1" RestartCount)
  kill -9 "$(state "$1" State.Pid)"
  wait_for 60 "$1 comes back" restarted "$1" "$before"
}

# Nothing lost, doubled or changed, in the eyes of a consumer on this machine.
judge() { # OPERATION
  "$PYTHON" -m deploy.judge "http://$(docker compose port wolkvox 8089)" localhost:9094 "$1" \
    >"$WORK/found" 2>"$WORK/judge.log" || fail "$(cat "$WORK/found" "$WORK/judge.log" | tail -20)"
  cat "$WORK/found"
}

compose() {
  docker compose "$@" >"$WORK/compose.log" 2>&1 || fail "docker compose $*: $(tail -5 "$WORK/compose.log")"
}

start_engine
[ "$(id -u)" = 0 ] || skip "only root can kill what runs in a container and give a file to user 10001"
find_compose
for port in 9094 9108; do
  port_is_free "$port" || skip "port $port of docker-compose.yml is in use"
done
say "Engine: $(docker version -f '{{.Server.Version}}'), $(docker compose version)"
find_base
printf 'base: %s\n' "$base"
find_kafka

mkdir "$WORK/checkout" "$WORK/tls"
# As after a clone under a strict umask: nobody else may read anything, unless the page says so.
(umask 077 && cp -r .dockerignore .env.example ./*.yml ./*.toml ./*.txt Dockerfile LICENSE README.md \
  deploy publisher sandbox tests "$WORK/checkout")
cd "$WORK/checkout"
chmod a+r sandbox/wolkvox/token deploy/stand-in/tls.py
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
  -subj /CN=wv0010.wolkvox.com -addext subjectAltName=DNS:wv0010.wolkvox.com \
  -keyout "$WORK/tls/key" -out "$WORK/tls/certificate" 2>"$WORK/openssl.log"
chmod 0444 "$WORK/tls/key"
# The tests' world, in which everything special happens soon. Its history begins at a fixed moment,
# so that what it has shown does not depend on when its server was started.
WORLD="--start=$(date -Is -d '-50 minutes') $("$PYTHON" -c 'from tests.harness import LIVELY
print(*(f"--{name}={value}".replace("_", "-") for name, value in LIVELY.items()))')"
export WORK WORLD base
# The settings of whoever runs this are not meant; and nobody wants to wait for five minutes.
unset $(sed -n 's/^\([A-Z_]*\)=.*/\1/p' .env.example)
export PUBLISHER_POLL_EVERY=1s

say "docker compose up --build, and kill -9 as soon as there are events"
timed compose up --build --detach
printf 'up after %s s\n' $((took / 1000))
wait_for 60 "the first window" says '"Window published"'
kill_9 publisher
compose up --wait
docker compose ps
"$PYTHON" -c 'from urllib.request import urlopen; print("the page answers with", urlopen("http://localhost:9108/").status)'
judge simulated

say "kill -9, five times"
for _ in 1 2 3 4 5; do
  sleep "$((RANDOM % 4)).$((RANDOM % 10))"
  kill_9 publisher
done
printf 'the engine restarted it %s times\n' "$(state publisher RestartCount)"
judge simulated

say "docker kill: stopped on purpose, until docker compose up"
docker kill "$(container publisher)" >"$WORK/killed"
sleep 5
printf '5 seconds later it is %s\n' "$(state publisher State.Status)"
[ "$(state publisher State.Status)" = exited ] || fail "the engine started it again"
compose up --detach --wait
judge simulated

say "kill -9 of Kafka"
kill_9 kafka
judge simulated
docker compose exec publisher wolkvox-publisher check | tail -1

say "docker compose stop, down, up: all of the state is in the volume"
timed compose stop
printf 'stopped after %s ms' "$took"
for service in publisher kafka wolkvox; do
  printf ', %s with %s' "$service" "$(state "$service" State.ExitCode)"
done
printf '\n'
ended_with publisher 0 || fail "the publisher did not end well"
[ "$took" -lt 40000 ] || fail "it took too long"
compose up --detach --wait
timed compose down
printf 'down after %s ms\n' "$took"
[ "$took" -lt 40000 ] || fail "it took too long"
compose up --detach --wait
judge simulated

say "A new version: docker compose up --build --detach publisher"
before=$(container publisher)
printf '# new\n' >>publisher/__init__.py
compose up --build --detach publisher
[ "$(container publisher)" != "$before" ] || fail "the old container still runs"
judge simulated
compose down --volumes

say "With .env: a token that the container may not read"
unset PUBLISHER_POLL_EVERY
cp .env.example .env
sed -i 's/^PUBLISHER_POLL_EVERY=.*/PUBLISHER_POLL_EVERY=1s/' .env
mkdir -p secrets
(umask 077 && printf 'wrong\n' >secrets/wolkvox-token)
compose up --build --detach
wait_for 60 "the log says so" says 'WOLKVOX_TOKEN_FILE: cannot read'
docker compose logs --no-log-prefix publisher | tail -1
wait_for 30 "it ends with 2" ended_with publisher 2

say "With .env: a wrong token"
chown 10001 secrets/wolkvox-token && chmod 400 secrets/wolkvox-token
compose restart publisher
wait_for 60 "the log says so" says '"token_refused"'
docker compose logs --no-log-prefix publisher | grep '"token_refused"' | tail -1
if docker compose exec publisher wolkvox-publisher check >"$WORK/check"; then fail "check finds nothing wrong"; fi
grep -A1 FAILED "$WORK/check"

say "With .env: the right token"
cat sandbox/wolkvox/token >secrets/wolkvox-token
compose restart publisher
compose up --detach --wait
judge wv0010
if docker inspect "$(container publisher)" | grep -f secrets/wolkvox-token >/dev/null; then
  fail "docker inspect shows the token"
fi

say "docker compose down --volumes"
timed compose down --volumes
printf 'down after %s ms\n' "$took"
left=$(for kind in "container ls --all" "volume ls" "network ls"; do
  docker $kind --quiet --filter "label=com.docker.compose.project=$RUN"
done)
[ -z "$left" ] || fail "something is left: $left"

printf "\nPROVEN: docker-compose.yml does what is promised\n"
