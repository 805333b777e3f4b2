#!/usr/bin/env bash
# An OAR cluster of several nodes on this machine: start-oar.sh DIRECTORY
#
# Everything it writes is in DIRECTORY, which all users must be able to enter, but for
# /etc/oar, /var/lib/oar, /var/log/oar.log and the /run files, whose places are fixed in
# the programs: only one can run at a time. It has a database and an SSH daemon of its
# own. Run it as root; no systemd is needed. End it with: stop-oar.sh DIRECTORY
#
# OAR_USER   who submits and runs jobs, made if missing (oaruser): OAR refuses root
# OAR_NODES  names of the nodes ("oarnode1 oarnode2")
# OAR_CORES  cores that each node claims to have (24), of 4096 MiB: property memcore
# OAR_PORT   first of three ports (16831)
set -euo pipefail

directory=$(realpath -m "${1:?start-oar.sh DIRECTORY}")
user=${OAR_USER:-oaruser}
nodes=${OAR_NODES:-oarnode1 oarnode2}
cores=${OAR_CORES:-24}
server_port=${OAR_PORT:-16831}
database_port=$((server_port + 1))
ssh_port=$((server_port + 2))
password=seamless
configuration=/etc/oar/oar.conf

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
umask 022
mkdir -p "$directory"
cd "$directory" # the daemons must be able to enter where they are started

fail() {
    echo "OAR: $*" >&2
    tail -n 20 "$directory"/*.log /var/log/oar.log >&2
    exit 1
}
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
patiently() { # patiently COMMAND...: try for 30 s
    for _ in $(seq 150); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    fail "in vain: $*"
}
sql() { PGPASSWORD=$password psql -h 127.0.0.1 -p "$database_port" -U oar -d oar -qAtc "$1"; }

for port in $server_port $database_port $ssh_port; do
    listening "$port" && fail "port $port is taken"
done
getent hosts "$(hostname)" >/dev/null || echo "127.0.0.1 $(hostname)" >>/etc/hosts
home=$(getent passwd "$user" | cut -d: -f6) || true # a user that does not exist yet
case $home in
# of tests that were killed
*/seamless-test-oar-*) [ -d "$home" ] || userdel "$user" ;;
esac
if ! id "$user" >/dev/null 2>&1; then
    useradd --create-home --home-dir "$directory/home" --shell /bin/bash "$user"
    touch user-is-ours
fi
# each job reads it without a look whether it is there
runuser -u "$user" -- sh -c 'test -e ~/.bashrc || touch ~/.bashrc'

# --- the database
postgres=$(find /usr/lib/postgresql -name initdb -printf '%h\n' | sort -V | tail -1)
as_postgres() { runuser -u postgres -- "$postgres/$@"; }
install -d -o postgres -g postgres -m 700 database
echo "$password" >database/password
chown postgres database/password
as_postgres initdb -D "$directory/database/data" -U postgres -E UTF8 --locale=C \
    --auth=scram-sha-256 --pwfile="$directory/database/password" --no-sync >initdb.log 2>&1 ||
    fail "no database"
as_postgres pg_ctl -D "$directory/database/data" -w -t 60 -l "$directory/database/log" start \
    -o "-p $database_port -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off" \
    >postgres.log 2>&1 </dev/null || fail "the database does not start"

# --- settings; the times make a scheduler that does not wait
keep() { # keep PATH: for the stop script to put back
    [ -e "$1.before-tests" ] || cp -a "$1" "$1.before-tests"
}
keep "$configuration"
set_to() { # set_to NAME VALUE
    sed -i "/^#\? *$1=/d" "$configuration"
    echo "$1=\"$2\"" >>"$configuration"
}
set_to DB_HOSTNAME 127.0.0.1
set_to DB_PORT "$database_port"
set_to DB_BASE_PASSWD "$password"
set_to DB_BASE_PASSWD_RO "$password"
set_to SERVER_HOSTNAME localhost
set_to SERVER_PORT "$server_port"
set_to OPENSSH_CMD "/usr/bin/ssh -p $ssh_port -e none"
set_to LOG_LEVEL 3
set_to SCHEDULER_MIN_TIME_BETWEEN_2_CALLS 0
set_to SCHEDULER_JOB_SECURITY_TIME 1
set_to SCHEDULER_GANTT_HOLE_MINIMUM_TIME 1
set_to FINAUD_FREQUENCY 60
set_to JOBDEL_SOFTWALLTIME 2
# no cgroups: they would need privileges on the node
sed -i -e 's/^JOB_RESOURCE_MANAGER_PROPERTY_DB_FIELD=/#&/' -e 's/^CPUSET_PATH=/#&/' "$configuration"
chown oar:root "$configuration"
chmod 600 "$configuration"

# --- SSH of the user oar to the nodes: other names of this machine, for that user only
ssh=/var/lib/oar/.ssh
[ -s /etc/oar/oar_ssh_host_rsa_key ] || ssh-keygen -q -t rsa -N '' -f /etc/oar/oar_ssh_host_rsa_key
chmod 600 /etc/oar/oar_ssh_host_rsa_key
install -d -o oar -g oar -m 700 $ssh
keep $ssh
[ -s $ssh/id_rsa ] || ssh-keygen -q -t rsa -N '' -f $ssh/id_rsa
echo "environment=\"OAR_KEY=1\" $(cat $ssh/id_rsa.pub)" >$ssh/authorized_keys
cat >$ssh/config <<CONFIG
Host $nodes
    HostName 127.0.0.1
Host *
    AddressFamily inet
    ForwardX11 no
    LogLevel ERROR
    PasswordAuthentication no
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
CONFIG
chown -R oar:oar $ssh
chmod 600 $ssh/*
install -d -m 755 /run/sshd
# without the options that newer daemons do not know any more
{
    printf 'Port %s\nListenAddress 127.0.0.1\nPidFile %s/sshd.pid\n' "$ssh_port" "$directory"
    grep -vE '^ *(Port|ListenAddress|PidFile|Protocol|UsePrivilegeSeparation|KeepAlive) ' /etc/oar/sshd_config
} >sshd_config
/usr/sbin/sshd -f "$directory/sshd_config" -E "$directory/sshd.log" </dev/null >sshd.start.log 2>&1 ||
    fail "sshd does not start"
for node in $nodes; do
    patiently runuser -u oar -- ssh -p "$ssh_port" -e none "$node" true
done

# --- the server and its resources
oar-database --create --db-admin-user=postgres --db-admin-pass="$password" >oar-database.log 2>&1 </dev/null ||
    fail "no tables"
# it closes every possible file first, one by one
(ulimit -n 4096 && exec oar-server </dev/null >oar-server.log 2>&1)
patiently listening "$server_port"
for property in "host -c" cpu core memcore; do
    # shellcheck disable=SC2086 # a name and perhaps an option
    oarproperty -a $property >>oar-database.log
done
core=0
cpu=0
values=
for node in $nodes; do
    cpu=$((cpu + 1))
    for _ in $(seq "$cores"); do
        core=$((core + 1))
        values+="${values:+,}('$node','$node',$cpu,$core,4096,'Alive')"
    done
done
sql "insert into resources (network_address, host, cpu, core, memcore, state) values $values"
patiently runuser -u "$user" -- timeout 20 oarnodes -s
