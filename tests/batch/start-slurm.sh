#!/usr/bin/env bash
# A SLURM cluster of several nodes on this machine: start-slurm.sh DIRECTORY
#
# Everything it writes is in DIRECTORY (short: it holds sockets), so that several can
# run at the same time, on different ports. Run it as root; no systemd is needed. Prints
# the environment to use. End it with: stop-slurm.sh DIRECTORY
#
# SLURM_NODES  number of nodes, named n1, n2, ... (4)
# SLURM_CPUS   processors that each node claims to have (72)
# SLURM_PORT   first port; one per node and one more are used (16817)
set -euo pipefail

directory=$(realpath -m "${1:?start-slurm.sh DIRECTORY}")
nodes=${SLURM_NODES:-4}
cpus=${SLURM_CPUS:-72}
port=${SLURM_PORT:-16817}
host=$(hostname)

export PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 022
mkdir -p "$directory"/{state,log,run}
cd "$directory" # the daemons must be able to enter where they are started

alive() { # alive PIDFILE
    [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null
}

getent hosts "$host" >/dev/null || echo "127.0.0.1 $host" >>/etc/hosts
if ! alive munge/pid; then
    install -d -o munge -g munge munge
    [ -s munge/key ] || runuser -u munge -- mungekey --create --keyfile "$directory/munge/key"
    runuser -u munge -- munged --key-file "$directory/munge/key" \
        --socket "$directory/munge/socket" --pid-file "$directory/munge/pid" \
        --log-file "$directory/munge/log" --seed-file "$directory/munge/seed" \
        --num-threads 2
fi

export SLURM_CONF=$directory/slurm.conf
# SlurmdTimeout: a node whose daemon is gone is soon noticed. MinJobAge: squeue and
# scontrol soon forget ended jobs, as they do in clusters without an accounting database.
cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
AuthType=auth/munge
AuthInfo=socket=$directory/munge/socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$directory/state
SlurmdSpoolDir=$directory/run/%n
SlurmctldPidFile=$directory/run/slurmctld.pid
SlurmdPidFile=$directory/run/slurmd-%n.pid
SlurmctldLogFile=$directory/log/slurmctld.log
SlurmdLogFile=$directory/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
InactiveLimit=10
KillWait=2
MinJobAge=10
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=$cpus RealMemory=60000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF

alive run/slurmctld.pid || slurmctld
for i in $(seq "$nodes"); do
    alive "run/slurmd-n$i.pid" || slurmd -N "n$i"
done

for _ in $(seq 150); do
    ready=$(sinfo -h -t idle,mix,alloc -o %D 2>/dev/null | awk '{s += $1} END {print s + 0}')
    [ "$ready" = "$nodes" ] && break
    sleep 0.2
done
if [ "$ready" != "$nodes" ]; then
    echo "SLURM: only $ready of $nodes nodes are ready" >&2
    tail -n 5 log/*.log >&2
    exit 1
fi
echo "export SLURM_CONF=$SLURM_CONF"
