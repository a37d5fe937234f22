#!/usr/bin/env bash
# What one would guess: torch.distributed's isend over gloo puts the bytes on the way at once, at least small ones, as
#   MPI's eager messages do, and an all-to-all takes the network's delay once.
# Versions: torch 2.13.0 (CPU), Python 3.11, Linux. Date: 2026-11-30.
# Behaviour: nothing but a note of some 40 bytes leaves the sender, whatever the size, until the receiver has posted its
#   recv and its own note has come back. A message costs two ways through the network, and one only where irecv was
#   posted at least one way earlier. Collectives post their receives when they are called, so each hop of them pays twice.
# Why it matters: between hosts with 25 ms each way an all-to-all takes 52 ms however small, and an all-reduce of three
#   ranks, four hops, 207 ms. training/device/gradient_mean.py posts its receives when a step begins and takes 2 ways.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" numpy
cat > "$folder/ranks.py" <<'P'
import os, socket, stat, struct, sys, time
import torch
import torch.distributed as dist

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
store = dist.FileStore(f"{folder}/notes", 2)
dist.barrier()


def acknowledged():
    """Bytes that the other side has acknowledged, of all connections of this process."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                total += struct.unpack_from("Q", one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 120)[0]
        except OSError:
            pass
    return total


for size in (4, 4_000_000):
    values = torch.zeros(size // 4)
    if rank == 0:
        before = acknowledged()
        sent = dist.isend(values, 1)
        time.sleep(1.0)
        early = acknowledged() - before
        store.set(f"receive {size}", "now")
        sent.wait()
        store.get(f"received {size}")
        time.sleep(0.5)
        late = acknowledged() - before
        print(f"{size} bytes: before the receiver waits {early < 100 and 'a note' or early}, then {late >= size and 'all' or late}")
    else:
        store.get(f"receive {size}")
        dist.recv(values, 0)
        store.set(f"received {size}", "yes")
dist.barrier()
P
"$folder/venv/bin/python" "$folder/ranks.py" 1 "$folder" & other=$!
seen=$("$folder/venv/bin/python" "$folder/ranks.py" 0 "$folder")
wait "$other"
echo "$seen"
test "$seen" = "4 bytes: before the receiver waits a note, then all
4000000 bytes: before the receiver waits a note, then all"
