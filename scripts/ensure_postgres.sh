#!/usr/bin/env bash
# Install Debian's PostgreSQL where there is none. Exit status 1, and one line that says why, where that cannot be.
set -u
have() { [ -x "${PG_BIN:-}/initdb" ] || command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; }
refuse() { echo "$0: no PostgreSQL here, and $1" >&2; exit 1; }

have && exit 0
command -v apt-get >/dev/null || refuse "no apt-get to install it with"
[ "$(id -u)" = 0 ] || refuse "only root can install it: apt-get install postgresql"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() { DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -q --no-install-recommends postgresql; }
{ install || { timeout 120 apt-get update -q && install; }; } >"$log" 2>&1 </dev/null || refuse "it cannot be installed: $(tail -1 "$log")"
have || refuse "its package brought no server"
