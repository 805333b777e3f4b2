#!/usr/bin/env bash
# End what start-sge.sh started: stop-sge.sh DIRECTORY
# Deletes the jobs, ends the daemons, and removes DIRECTORY.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/processes.sh"

directory=$(realpath -m "${1:?stop-sge.sh DIRECTORY}")
[ -d "$directory" ] || exit 0
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
# the environment, ports included, is that of the daemon
pid() { cat "$directory"/spool/qmaster.pid 2>/dev/null; }
if [ -n "$(pid)" ] && [ -r "/proc/$(pid)/environ" ]; then
    while IFS= read -r -d '' assignment; do
        case $assignment in SGE_*) export "${assignment?}" ;; esac
    done <"/proc/$(pid)/environ"

    jobs() { timeout 10 qstat -u '*' 2>/dev/null; }
    if [ -n "$(jobs)" ]; then
        timeout 20 qdel -u '*' >/dev/null 2>&1
        for _ in $(seq 50); do
            [ -z "$(jobs)" ] && break
            sleep 0.2
        done
    fi
fi

for file in "$directory"/execd/*/execd.pid; do
    [ -s "$file" ] && end "$(cat "$file")"
done
# asked to end it would take 7 s, in which it saves what is removed here
[ -z "$(pid)" ] || kill -KILL "$(pid)" 2>/dev/null
rm -rf "$directory"
