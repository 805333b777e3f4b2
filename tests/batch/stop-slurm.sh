#!/usr/bin/env bash
# End what start-slurm.sh started: stop-slurm.sh DIRECTORY
# Cancels the jobs, ends the daemons, and removes DIRECTORY.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/processes.sh"

directory=$(realpath -m "${1:?stop-slurm.sh DIRECTORY}")
export SLURM_CONF=$directory/slurm.conf PATH=/usr/sbin:/usr/bin:/sbin:/bin
[ -e "$SLURM_CONF" ] || exit 0
cd "$directory" || exit 0

jobs() { timeout 10 squeue -h -o %i 2>/dev/null; }
left=$(jobs)
if [ -n "$left" ]; then
    # shellcheck disable=SC2086 # one word per job
    timeout 10 scancel --full $left
    for _ in $(seq 25); do
        [ -z "$(jobs)" ] && break
        sleep 0.2
    done
fi

pids=()
for file in run/slurmd-*.pid run/slurmctld.pid; do
    [ -s "$file" ] && pids+=("$(cat "$file")")
done
[ "${#pids[@]}" -eq 0 ] || end "${pids[@]}"

# what runs in jobs whose node's daemon was gone before
for process in /proc/[0-9]*; do
    if tr '\0' '\n' 2>/dev/null <"$process/environ" |
        awk -v ours="SLURM_CONF=$SLURM_CONF" '
            $0 == ours {conf = 1} /^SLURM_JOB_ID=/ {job = 1}
            END {exit !(conf && job)}'; then
        kill -KILL "${process#/proc/}" 2>/dev/null
    fi
done

[ -s munge/pid ] && end "$(cat munge/pid)"
cd / && rm -rf "$directory"
