#!/usr/bin/env bash
# What one would guess: Work.is_completed() of dist.irecv becomes True once the message is in the tensor, so that one
#   can look whether it is here and do something else meanwhile, as with MPI_Test.
# Versions: torch 2.13.0 (CPU), Python 3.11, Linux. Date: 2026-12-01.
# Behaviour: over gloo it stays False for ever: the values are in the tensor, seconds pass, and only wait() makes it
#   True. get_future() of it is not implemented. An all_reduce on the same group says True by itself, without a wait().
# Why it matters: a loop that polls a receive never ends. What cannot be asked must be ordered: the messages of
#   ldlva_dist/method/posted_exchange.py are waited for at a place in the step where they have come, and not polled.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" numpy
cat > "$folder/ranks.py" <<'P'
import sys, time
import torch
import torch.distributed as dist

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
values = torch.full((4,), float(rank))
if rank == 0:
    receive = dist.irecv(values, 1)
else:
    dist.isend(values, 0).wait()
dist.barrier()
total = torch.ones(1)
reduce = dist.all_reduce(total, async_op=True)
time.sleep(3.0)
if rank == 0:
    print(f"values {values.tolist()}, receive completed {receive.is_completed()}, all_reduce {reduce.is_completed()}")
    receive.wait()
    print(f"after wait() completed {receive.is_completed()}")
    try:
        receive.get_future()
    except RuntimeError as error:
        print(str(error).splitlines()[0])
reduce.wait()
dist.barrier()
P
"$folder/venv/bin/python" "$folder/ranks.py" 1 "$folder" & other=$!
seen=$("$folder/venv/bin/python" "$folder/ranks.py" 0 "$folder")
wait "$other"
echo "$seen"
test "$seen" = "values [1.0, 1.0, 1.0, 1.0], receive completed False, all_reduce True
after wait() completed True
Work::getFuture not implemented."
