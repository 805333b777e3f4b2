#!/usr/bin/env bash
# End what start-oar.sh started: stop-oar.sh DIRECTORY
# Deletes the jobs, ends the daemons, puts /etc/oar back, and removes DIRECTORY.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/processes.sh"

directory=$(realpath -m "${1:?stop-oar.sh DIRECTORY}")
[ -d "$directory/database" ] || exit 0
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
cd /

tree() { # tree PID: it and all below, the leaves first
    local child
    for child in $(ps -o pid= --ppid "$1"); do tree "$child"; done
    echo "$1"
}
jobs() { timeout 10 oarstat 2>/dev/null | grep -oE '^[0-9]+ '; }
if [ -n "$(jobs)" ]; then
    # shellcheck disable=SC2046 # one word per job
    timeout 20 oardel $(jobs) >/dev/null 2>&1
    for _ in $(seq 75); do
        [ -z "$(jobs)" ] && break
        sleep 0.2
    done
fi

# also what a server that was killed left behind
# shellcheck disable=SC2046 # one word per process
server=$(ps -u oar -o pid=,args= | awk '/Almighty/ {print $1}')
[ -z "$server" ] || end $server
# jobs that no server could end
for file in /var/lib/oar/pid_of_oarexec_for_jobId_*; do
    # shellcheck disable=SC2046 # one word per process
    [ -s "$file" ] && kill -KILL $(tree "$(cat "$file")") 2>/dev/null
    rm -f "$file"
done
[ -s "$directory/sshd.pid" ] && end "$(cat "$directory/sshd.pid")"
[ -s "$directory/database/data/postmaster.pid" ] &&
    runuser -u postgres -- "$(find /usr/lib/postgresql -name pg_ctl | sort -V | tail -1)" \
        -D "$directory/database/data" -m fast -t 30 stop >/dev/null

rm -f /run/oar-server.pid
for path in /etc/oar/oar.conf /var/lib/oar/.ssh; do
    [ -e "$path.before-tests" ] || continue
    rm -rf "$path"
    mv "$path.before-tests" "$path"
done
if [ -e "$directory/user-is-ours" ]; then
    userdel "$(stat -c %U "$directory/home")"
fi
rm -rf "$directory"
