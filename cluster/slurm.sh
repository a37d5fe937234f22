#!/usr/bin/env bash
#SBATCH --job-name=ldlva
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
# A Ray cluster inside one Slurm allocation, one job on it, and nothing left. From the checkout, which all nodes see:
#
#   sbatch cluster/slurm.sh python jobs/train.py affectnet_resnet18 --data.dataset /shared/affectnet \
#       --storage-path /shared/runs --placement.use-gpu --placement.num-workers 8
#
# Its exit code is the command's own. Two minutes before the time is over Slurm sends a SIGTERM: the run saves, and the
# same sbatch line resumes it (`--requeue` and `scontrol requeue` do, too). Change sizes on the command line of sbatch.
#
#   LDLVA_SLURM_PORT    port of the head; the job's number decides     20000 + SLURM_JOB_ID % 20000
#   LDLVA_SLURM_HEAD_IP the first node's address for the others        its first
#   LDLVA_SLURM_TEMP    Ray's sockets and logs; a short path           /tmp/ldlva-ray-SLURM_JOB_ID
#   LDLVA_SLURM_WAIT_S  longest wait for the nodes                     300
set -euo pipefail

(($#)) || { echo "error: sbatch cluster/slurm.sh COMMAND..." >&2; exit 2; }
: "${SLURM_JOB_ID:?must be set: start this with sbatch}" "${SLURM_JOB_NODELIST:?must be set: start this with sbatch}"
project=${SLURM_SUBMIT_DIR:-$PWD}
cd "$project"
[[ -x $project/.venv/bin/ray ]] && PATH=$project/.venv/bin:$PATH
command -v ray >/dev/null || { echo "error: ray must be in $project/.venv or on the PATH; run 'make setup'" >&2; exit 2; }

port=${LDLVA_SLURM_PORT:-$((20000 + SLURM_JOB_ID % 20000))}
wait_s=${LDLVA_SLURM_WAIT_S:-300}
temp=${LDLVA_SLURM_TEMP:-/tmp/ldlva-ray-$SLURM_JOB_ID}
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# Not the address of its own name: that is 127.0.1.1 on many machines.
head_ip=${LDLVA_SLURM_HEAD_IP:-$(srun --nodes=1 --ntasks=1 --overlap -w "${nodes[0]}" hostname -I | awk '{print $1}')}

umask 077
token=$(mktemp "$project/.slurm-token-XXXXXX") # all nodes must be able to read it
head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$token"
unset RAY_AUTH_TOKEN RAY_ADDRESS
export PATH RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token RAY_worker_niceness=0 PYTHONUNBUFFERED=1
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
export RAY_grpc_keepalive_timeout_ms=60000 RAY_object_manager_pull_timeout_ms=3000 # as in the Dockerfile

# One task a node, each the `ray start --block` of its node: when the task ends, so does the node, and nothing else.
# Ray gives a node's agent 15 s to start and no setting for it; on a busy machine that can be too little.
size=(--num-cpus "${SLURM_CPUS_PER_TASK:-1}")
gpus=${SLURM_GPUS_ON_NODE:-0}
[[ $gpus != 0 ]] && size+=(--num-gpus "$gpus")
common=(--block --disable-usage-stats --dashboard-agent-listen-port 0 --min-worker-port 0 --max-worker-port 0 "${size[@]}")
step=(--nodes=1 --ntasks=1 --overlap --kill-on-bad-exit=1)
started=()
keep_node() { # HOST OPTION...
    local host=$1
    shift
    trap 'kill -TERM "$node" 2>/dev/null || true; wait "$node" || true; exit' TERM
    for _ in 1 2 3; do
        srun "${step[@]}" -w "$host" ray start "${common[@]}" "$@" &
        node=$!
        wait "$node" || true
        echo "the node on $host has ended" >&2
        sleep 5
    done
}
start_node() {
    keep_node "$@" &
    started+=($!)
}
end_nodes() {
    trap '' TERM INT
    for process in "${started[@]}"; do kill -TERM "$process" 2>/dev/null || true; done
    for process in "${started[@]}"; do wait "$process" || true; done
    rm -f "$token"
}
trap end_nodes EXIT

start_node "${nodes[0]}" --head --node-ip-address "$head_ip" --port "$port" --temp-dir "$temp" --include-dashboard true \
    --dashboard-host 127.0.0.1 --dashboard-port $((port + 20000)) --ray-client-server-port $((port + 20001))
deadline=$((SECONDS + wait_s))
until ray health-check --address "$head_ip:$port" >/dev/null 2>&1; do
    kill -0 "${started[0]}" 2>/dev/null && ((SECONDS < deadline)) || { echo "error: the head did not start" >&2; exit 4; }
    sleep 1
done
for host in "${nodes[@]:1}"; do start_node "$host" --address "$head_ip:$port"; done
echo "a head on ${nodes[0]} ($head_ip:$port), ${#nodes[@]} nodes" >&2

# The job waits for its nodes by itself (placement.wait_for_workers_s), and says so.
export RAY_ADDRESS=$head_ip:$port
"$@" &
job=$! again=
trap 'again=1; kill -TERM "$job" 2>/dev/null || true' TERM INT
code=0
wait "$job" || code=$?
while [[ -n $again ]]; do # a signal ended the wait, not the job
    again= now=0
    wait "$job" || now=$?
    ((now == 127)) || code=$now
done
exit "$code"
