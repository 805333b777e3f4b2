#!/usr/bin/env bash
# A Grid Engine with one node on this machine: start-sge.sh DIRECTORY
#
# Everything it writes is in DIRECTORY, so that several can run at the same time, on
# different ports. Run it as root; no systemd is needed. Prints the environment to use.
# End it with: stop-sge.sh DIRECTORY
#
# SGE_SLOTS  slots of the node (64), in the queue all.q; parallel environment: smp
# SGE_PORT   first of two ports (16801)
set -euo pipefail

directory=$(realpath -m "${1:?start-sge.sh DIRECTORY}")
slots=${SGE_SLOTS:-64}
port=${SGE_PORT:-16801}
host=$(hostname)
unset "${!SGE_@}"
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C TMPDIR=/tmp
export SGE_ROOT=$directory SGE_CELL=default SGE_SINGLE_LINE=1
export SGE_QMASTER_PORT=$port SGE_EXECD_PORT=$((port + 1))
umask 022
cd / # the daemons must be able to enter where they are started

fail() {
    echo "Grid Engine: $*" >&2
    tail -n 20 "$directory"/*.log "$directory"/spool/messages "$directory"/execd/*/messages >&2
    exit 1
}
daemon() { # daemon COMMAND: jobs get the environment of the daemon, so keep it bare
    quietly env -i PATH="$PATH" SGE_ROOT="$SGE_ROOT" SGE_CELL="$SGE_CELL" TMPDIR=/tmp \
        SGE_QMASTER_PORT="$SGE_QMASTER_PORT" SGE_EXECD_PORT="$SGE_EXECD_PORT" "$@" </dev/null
}
quietly() { # quietly COMMAND...: keep what it says for the case of a failure
    timeout 20 "$@" >>"$directory/setup.log" 2>&1
}

getent hosts "$host" >/dev/null || echo "127.0.0.1 $host" >>/etc/hosts
address=$(getent ahostsv4 "$host" | awk 'NR == 1 {print $1}')
# Grid Engine wants one name per machine: every other name of this one is an alias
aliases=$(
    {
        echo localhost
        getent hosts "$address" "127.0.0.1"
    } | tr -s ' \t' '\n' | grep -vixF -e "$host" -e "$address" -e 127.0.0.1 -e ::1 | sort -u
)

common=$directory/default/common
install -d -m 755 -o sgeadmin -g sgeadmin "$directory"/{default,default/common,spool,spool/job_scripts,database,execd}
ln -sfn /usr/share/gridengine/util "$directory/util"
sed -e "s|/var/spool/gridengine/spooldb|$directory/database|" \
    -e "s|/var/spool/gridengine/qmaster|$directory/spool|" \
    /usr/share/gridengine/default-bootstrap >"$common/bootstrap"
echo "$host" >"$common/act_qmaster"
echo "$host" $aliases >"$common/host_aliases"
chown sgeadmin:sgeadmin "$common"/*
quietly su -s /bin/sh sgeadmin -c "/usr/share/gridengine/scripts/init_cluster '$directory' default '$directory/database' sgeadmin" ||
    fail "cannot make the database"

daemon sge_qmaster || fail "sge_qmaster does not start"
for _ in $(seq 100); do
    timeout 10 qconf -sh >/dev/null 2>&1 && break
    sleep 0.2
done
quietly qconf -ah "$host" || true # the master's host may be one already
quietly qconf -as "$host"
quietly qconf -am root || true

# root may submit; the scheduler does not wait; no mail; scripts run with their own shell
settings=$(mktemp -d)
trap 'rm -rf "$settings"' EXIT
qconf -sconf global | sed '/^#/d' | awk -v spool="$directory/execd" '
    $1 == "min_uid" || $1 == "min_gid" {$2 = 0}
    $1 == "execd_spool_dir" {$2 = spool}
    $1 == "shell_start_mode" {$2 = "unix_behavior"}
    $1 == "load_report_time" {$2 = "00:00:05"}
    $1 == "mailer" {$2 = "/bin/true"}
    {print}' >"$settings/global"
quietly qconf -Mconf "$settings/global" || fail "configuration"
qconf -ssconf | awk '
    $1 == "schedule_interval" {$2 = "0:0:2"}
    $1 == "flush_submit_sec" || $1 == "flush_finish_sec" {$2 = 1}
    {print}' >"$settings/scheduler"
quietly qconf -Msconf "$settings/scheduler" || fail "configuration of the scheduler"

daemon sge_execd || fail "sge_execd does not start"
for _ in $(seq 100); do
    qconf -sel 2>/dev/null | grep -qi "^$host" && break
    sleep 0.2
done
quietly qconf -aattr exechost complex_values "slots=$slots" "$host" || fail "slots"

printf 'group_name @allhosts\nhostlist %s\n' "$host" >"$settings/group"
quietly qconf -Ahgrp "$settings/group" || fail "host group"
cat >"$settings/smp" <<'PE'
pe_name            smp
slots              999
user_lists         NONE
xuser_lists        NONE
start_proc_args    NONE
stop_proc_args     NONE
allocation_rule    $pe_slots
control_slaves     FALSE
job_is_first_task  TRUE
urgency_slots      min
accounting_summary TRUE
qsort_args         NONE
PE
quietly qconf -Ap "$settings/smp" || fail "parallel environment"
# without load thresholds: a busy machine would close the queue
qconf -sq | awk -v slots="$slots" '
    $1 == "qname" {$2 = "all.q"}
    $1 == "hostlist" {$2 = "@allhosts"}
    $1 == "load_thresholds" {$2 = "NONE"}
    $1 == "pe_list" {$0 = "pe_list smp"}
    $1 == "slots" {$2 = slots}
    $1 == "shell" {$2 = "/bin/bash"}
    $1 == "shell_start_mode" {$2 = "unix_behavior"}
    $1 == "tmpdir" {$2 = "/tmp"}
    {print}' >"$settings/queue"
quietly qconf -Aq "$settings/queue" || fail "queue"

ready() { # no state letters: the node has reported
    timeout 10 qstat -f -q all.q 2>/dev/null | awk '/^all.q@/ {found = NF == 5} END {exit !found}'
}
for _ in $(seq 150); do
    ready && break
    sleep 0.2
done
ready || fail "$(qstat -f -explain aAE 2>&1)"
for name in SGE_ROOT SGE_CELL SGE_QMASTER_PORT SGE_EXECD_PORT; do
    echo "export $name=${!name}"
done
