#!/usr/bin/env bash
# What one would guess: iter_batches(prefetch_batches=2) hands a batch out as soon as its block is finished, and asks for
#   the next two meanwhile; prefetching can only make batches come earlier.
# Versions: ray 2.60.0, Python 3.11, Linux. Date: 2026-12-01.
# Behaviour: the iterator first waits until two blocks are finished, and takes a third before it yields the first. Then each
#   block is yielded when the second one after it is finished. With prefetch_batches=0 a block is yielded when it is there.
#   The default is 1: two blocks for the first batch.
# Why it matters: where blocks are large and slow (tasks that read a far store, or the first ones after a start) training
#   begins after three of them. Runs of this project stood for up to 60 s at every start that had their first block
#   after 36. Tasks of stream/pipeline.py put their blocks on the training's own node, so it prefetches none.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "ray[data]==2.60.0"
cat > "$folder/first.py" <<'P'
import sys, time
import ray

TASK_S = 2.0
ray.init(address="local", num_cpus=1, logging_level="error", log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False

def slow(rows):
    time.sleep(TASK_S)
    return rows

def arrivals(**prefetch):
    dataset = ray.data.range(5, override_num_blocks=5).map_batches(slow, batch_size=None)
    began = time.monotonic()
    return [time.monotonic() - began for _ in dataset.iter_batches(batch_size=None, **prefetch)]

arrivals()  # starts the worker process
seen = {}
for prefetch in (0, 1, 2):
    times = arrivals(prefetch_batches=prefetch)
    seen[prefetch] = round((times[0] - (arrivals(prefetch_batches=0)[0] if prefetch else times[0])) / TASK_S)
    print(f"ray {ray.__version__}: prefetch_batches={prefetch}: batches came after", ", ".join(f"{t:.1f}" for t in times), "s")
print("tasks that the first batch waited for, beyond its own:", seen)
sys.exit(0 if seen == {0: 0, 1: 1, 2: 2} else 1)
P
"$folder/venv/bin/python" "$folder/first.py" 2>/dev/null
