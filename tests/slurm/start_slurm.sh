#!/bin/bash
# A Slurm cluster of one node, on this machine and its loopback, as root, for tests:  start_slurm.sh FOLDER [CPUS]
#
# Everything that it writes lies in FOLDER (keys, sockets, logs, states). It runs until it is ended by SIGTERM, and prints
# `ready` when jobs can be sent with SLURM_CONF=FOLDER/slurm.conf. Needs `apt-get install slurm-wlm munge`.
set -eu
folder=$(realpath "$1")
cpus=${2:-2}
host=$(hostname -s)
umask 022
mkdir -p "$folder/munge" "$folder/state" "$folder/spool"
head -c 1024 /dev/urandom > "$folder/munge/key"
chmod 600 "$folder/munge/key"
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

cat > "$folder/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(port)
SlurmdPort=$(port)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
# No cgroups: containers do not let us have them.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1
SlurmdParameters=config_overrides
KillWait=10
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
echo "CgroupAutomount=no" > "$folder/cgroup.conf"
export SLURM_CONF="$folder/slurm.conf"

pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait; exit 0' TERM INT
munged --foreground --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
    --seed-file="$folder/munge/seed" --log-file="$folder/munge/log" > "$folder/munge/out" 2>&1 & pids+=($!)
until [ -S "$folder/munge/socket" ]; do sleep 0.1; done
slurmctld -D > "$folder/slurmctld.out" 2>&1 & pids+=($!)
slurmd -D -N "$host" > "$folder/slurmd.out" 2>&1 & pids+=($!)
until sinfo -h -o %t 2>/dev/null | grep -q idle; do
    for pid in "${pids[@]}"; do kill -0 "$pid" || { cat "$folder"/*.out "$folder/munge/out" >&2; kill "${pids[@]}"; exit 1; }; done
    sleep 0.2
done
echo ready
wait
