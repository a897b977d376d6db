#!/usr/bin/env bash
# Run a command beside a private PostgreSQL: scripts/with_postgres.sh pytest tests/memory
# A server on a free loopback port, in a temporary folder, stopped and removed whatever the command does.
# It never waits for the disk: its data is thrown away. SPARRING_TEST_DATABASE is its URL, SPARRING_TEST_PG_CTL the
# pg_ctl that restarts it. PG_BIN names the folder of initdb and pg_ctl where it is not found.
set -eu
[ $# -gt 0 ] || { echo "usage: $0 COMMAND [ARGUMENT ...]" >&2; exit 2; }

bin=${PG_BIN:-$(dirname "$(command -v initdb || ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -1)")}
[ -x "$bin/initdb" ] || { echo "$0: no PostgreSQL server here (initdb not found); set PG_BIN" >&2; exit 2; }

folder=$(mktemp -d)
owner=
as_owner() { "$@"; }
if [ "$(id -u)" = 0 ]; then  # the server refuses to run as root
    owner=${PG_USER:-postgres}
    chown "$owner" "$folder"
    as_owner() { runuser -u "$owner" -- "$@"; }
fi

child=
stop() {
    trap - EXIT INT TERM HUP
    [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true
    (cd "$folder" && as_owner "$bin/pg_ctl" -D "$folder/data" -m immediate -w stop >/dev/null 2>&1) || true
    rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

start() {  # a port may be taken between choosing it and listening on it
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    (cd "$folder" && as_owner "$bin/pg_ctl" -D "$folder/data" -l "$folder/log" -w -t 60 \
        -o "-p $port -c listen_addresses=127.0.0.1 -k $folder -c max_connections=200 -c fsync=off" start >/dev/null)
}
(cd "$folder" && as_owner "$bin/initdb" -D "$folder/data" -U sparring -A trust -E UTF8 --no-locale --no-sync >/dev/null)
start || start || start || { cat "$folder/log" >&2; exit 1; }

export SPARRING_TEST_DATABASE="postgresql://sparring@127.0.0.1:$port/postgres"
export SPARRING_TEST_PG_CTL="${owner:+runuser -u $owner -- }$bin/pg_ctl -D $folder/data -l $folder/log -w -t 60"
"$@" &
child=$!
wait "$child" && status=0 || status=$?
child=
exit "$status"
