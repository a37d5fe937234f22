#!/usr/bin/env bash
# A Ray head on this machine, for jobs from this machine: loopback only, with a token. Stays in the foreground; Ctrl-C
# ends it and nothing else. Never `ray stop` beside it: that ends every cluster on the host.
#
#   LDLVA_STATE           where token and log lie                ~/.ldlva
#   LDLVA_PORT            port that nodes and drivers join       6379
#   LDLVA_DASHBOARD_PORT  port that jobs are submitted to        8265
#   LDLVA_AGENT_PORT      port of the node's agent               52365
#   LDLVA_CLIENT_PORT     port of Ray Client                     10001
#   LDLVA_NUM_CPUS        CPUs to offer                          all
#   LDLVA_RAY_TEMP        Ray's sockets and logs; a short path   /tmp/ldlva-ray-UID
#   RAY_AUTH_TOKEN_PATH   the token                              LDLVA_STATE/token, made if missing
set -euo pipefail

state=${LDLVA_STATE:-$HOME/.ldlva}
dashboard=http://127.0.0.1:${LDLVA_DASHBOARD_PORT:-8265}
ready_limit_s=300

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# First on the PATH, so that `python` in a job is the project's own.
[[ -x $project/.venv/bin/ray ]] && PATH=$project/.venv/bin:$PATH
if ! command -v ray >/dev/null; then
    echo "error: ray must be in $project/.venv or on the PATH; run 'make setup' first" >&2
    exit 2
fi

umask 077
mkdir -p "$state"
export PATH RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$state/token}
unset RAY_AUTH_TOKEN RAY_ADDRESS # either would win over what is set here
if [[ ! -s $RAY_AUTH_TOKEN_PATH ]]; then
    head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH"
fi
# Ray's default, nice 15, makes its workers look hung beside any busy process.
export RAY_worker_niceness=0
# Else Ray quietly replaces 127.0.0.1 by the address that others reach this machine at.
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
# `ray job stop` kills what has not ended after 3 s; a run that saves has training.stop_grace_s, 60 s.
export RAY_JOB_STOP_WAIT_TIME_S=90
export PYTHONUNBUFFERED=1 # the log is read below
# Else Ray waits 30 s at the end for work to move to other nodes; there are none.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

options=(
    --head --block --disable-usage-stats
    --node-ip-address 127.0.0.1 --port "${LDLVA_PORT:-6379}"
    --dashboard-host 127.0.0.1 --dashboard-port "${dashboard##*:}"
    --dashboard-agent-listen-port "${LDLVA_AGENT_PORT:-52365}"
    --ray-client-server-port "${LDLVA_CLIENT_PORT:-10001}"
    --min-worker-port 0 --max-worker-port 0 # any free ones: nothing outside this machine reaches them
    --temp-dir "${LDLVA_RAY_TEMP:-/tmp/ldlva-ray-$(id -u)}"
)
[[ -n ${LDLVA_NUM_CPUS:-} ]] && options+=(--num-cpus "$LDLVA_NUM_CPUS")

start_head() {
    : >"$state/head.log" # not the one before: it is read below
    ray start "${options[@]}" >>"$state/head.log" 2>&1 &
    head=$!
}
start_head
end_head() {
    trap '' INT TERM
    if kill -TERM "$head" 2>/dev/null; then wait "$head" || true; fi # Ray ends its own processes
}
trap end_head EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

attempts=1
until grep -q "Ray runtime started" "$state/head.log"; do
    # Ray gives the agent of a node 15 s to start and no setting for it; on a busy machine that can be too little.
    if ! kill -0 "$head" 2>/dev/null && grep -q "timed out during startup" "$state/head.log" && ((attempts < 3)); then
        attempts=$((attempts + 1))
        echo "the head was too slow to start; attempt $attempts of 3" >&2
        sleep 5 # until what is left of the last attempt has let go of its ports
        start_head
    fi
    if ! kill -0 "$head" 2>/dev/null || ((SECONDS > ready_limit_s)); then
        echo "error: the head did not start; the end of $state/head.log:" >&2
        tail -n 15 "$state/head.log" >&2
        exit 4
    fi
    sleep 0.5
done

cat <<MESSAGE
The head is ready. In another terminal, in $project:

    export RAY_AUTH_MODE=token
    export RAY_AUTH_TOKEN_PATH=$RAY_AUTH_TOKEN_PATH
    ray job submit --address $dashboard --working-dir . -- \\
        python jobs/sweep.py demo --data.dataset \$PWD/datasets/demo --storage-path \$PWD/runs

A job runs in a copy of the project, so it needs full paths.

Ctrl-C ends it.
MESSAGE
wait "$head" || true
echo "error: the head ended by itself; see $state/head.log" >&2
exit 4
