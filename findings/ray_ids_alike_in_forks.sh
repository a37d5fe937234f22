#!/usr/bin/env bash
# What one would guess: ids that Ray draws at random differ between two processes; and merely decorating a class with
#   @ray.remote, before any cluster is there, draws nothing that a later fork would share.
# Versions: ray 2.60.0, Python 3.11, Linux. Date: 2026-11-29.
# Behaviour: the decorator draws the class's id in Ray's core, whose generator lives in the process from then on. Forks
#   of that process (multiprocessing's fork, a preloading server) draw the same "random" ids as each other; forks of one
#   that has only imported Ray, or has decorated functions, draw different ones.
# Why it matters: two such forks that join one cluster name their tasks and objects alike. Calls of both to one asyncio
#   actor then bear one id, and that actor was lost (seen in this project's own cluster, not shown here).
#   runtime/fork_server.py gives classes ids from the system, and asks two test forks before it forks workers.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "ray==2.60.0"
cat > "$folder/draw.py" <<'P'
import os, sys
import ray
from ray._raylet import UniqueID

if sys.argv[1] == "class":
    @ray.remote
    class Decorated:
        pass
elif sys.argv[1] == "function":
    @ray.remote
    def decorated():
        pass

drawn = set()
for _ in range(3):
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(theirs, UniqueID.from_random().binary())
        os._exit(0)
    os.close(theirs)
    drawn.add(os.fdopen(ours, "rb").read())
    os.waitpid(child, 0)
print(len(drawn))
P
seen=""
for what in nothing function class; do
  seen="$seen$what $("$folder/venv/bin/python" "$folder/draw.py" "$what"); "
done
echo "different ids drawn by three forks of a process that decorated: $seen"
test "$seen" = "nothing 3; function 3; class 1; "
