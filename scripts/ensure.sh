#!/usr/bin/env bash
# Install from Debian what tests use and is not there: scripts/ensure.sh postgres|chromium|bubblewrap
# Exit status 1, and one line that says why, where that cannot be.
set -u
what=${1:-}
refuse() { echo "$0: no $what here, and $1" >&2; exit 1; }

case $what in
postgres)
    packages=postgresql
    have() { [ -x "${PG_BIN:-}/initdb" ] || command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; } ;;
chromium)
    packages="chromium chromium-driver"
    have() { command -v chromium >/dev/null && command -v chromedriver >/dev/null; } ;;
bubblewrap)
    packages=bubblewrap
    have() { command -v bwrap >/dev/null; } ;;
*)
    echo "usage: $0 postgres|chromium|bubblewrap" >&2; exit 2 ;;
esac

have && exit 0
command -v apt-get >/dev/null || refuse "no apt-get to install it with"
[ "$(id -u)" = 0 ] || refuse "only root can install it: apt-get install $packages"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086  # several packages are several words
install() { DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -q --no-install-recommends $packages; }
{ install || { timeout 120 apt-get update -q && install; }; } >"$log" 2>&1 </dev/null || refuse "it cannot be installed: $(tail -1 "$log")"
have || refuse "its package brought none"
