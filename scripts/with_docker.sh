#!/bin/sh
# Run a command with a private Docker daemon (Debian: docker.io, busybox-static) and a tiny image built from
# this machine's busybox: scripts/with_docker.sh COMMAND ... Needs root; nothing is fetched from a registry.
set -eu
busybox=$(command -v busybox) || { echo "busybox-static is not installed" >&2; exit 77; }
command -v dockerd >/dev/null || { echo "docker.io is not installed" >&2; exit 77; }
[ "$(id -u)" = 0 ] || { echo "a private Docker daemon needs root" >&2; exit 77; }
folder=$(mktemp -d)
export DOCKER_HOST="unix://$folder/socket" DOCKER_CONFIG="$folder/config" DOCKER_BUILDKIT=0
dockerd --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/pid" --host "$DOCKER_HOST" \
  --iptables=false --bridge=none --storage-driver vfs >"$folder/log" 2>&1 &
daemon=$!
end() {
  kill "$daemon" 2>/dev/null && wait "$daemon" || true
  rm -rf "$folder"
}
trap end EXIT
trap 'exit 130' INT TERM
tries=0
until docker version >/dev/null 2>&1; do
  tries=$((tries + 1))
  [ "$tries" -lt 100 ] && kill -0 "$daemon" 2>/dev/null || { tail -5 "$folder/log" >&2; exit 77; }
  sleep 0.3
done
mkdir -p "$folder/root/bin" "$folder/root/tmp" "$folder/root/proc"
chmod 1777 "$folder/root/tmp"
cp "$busybox" "$folder/root/bin/busybox"
for name in sh sleep cat echo id ls yes head wc kill true; do ln -s busybox "$folder/root/bin/$name"; done
tar -C "$folder/root" -c . | docker import - sparring-sandbox-test >/dev/null
export SPARRING_TEST_IMAGE=sparring-sandbox-test
"$@"
