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
    return {"finished": [time.time()] * len(rows["id"])}

def finished_by_the_first(**prefetch):
    """Tasks that had finished when the first batch came."""
    dataset = ray.data.range(5, override_num_blocks=5).map_batches(slow, batch_size=None)
    came, finished = [], []
    for batch in dataset.iter_batches(batch_size=None, **prefetch):
        came.append(time.time())
        finished.append(batch["finished"][0])
    return int(sum(end <= came[0] for end in finished))

finished_by_the_first()  # starts the worker process
seen = {prefetch: finished_by_the_first(prefetch_batches=prefetch) for prefetch in (0, 1, 2)}
print(f"ray {ray.__version__}: tasks of {TASK_S:g} s that had finished when the first batch came, by prefetch_batches:", seen)
sys.exit(0 if seen == {0: 1, 1: 2, 2: 3} else 1)
P
"$folder/venv/bin/python" "$folder/first.py" 2>/dev/null
