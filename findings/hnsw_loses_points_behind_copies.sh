#!/usr/bin/env bash
# One would guess: HNSW misses neighbours because it looks at too few candidates, so that a search of as many candidates as
# there are points (efSearch = N) is exact, and a point that is in the index finds itself at distance 0.
# faiss-cpu 1.15.1, one thread, seen on 2026-11-30: where 40 % of the points are copies of one point, links go from copy to
# copy, and some of the other points have none that leads to them. In six graphs (N = 3,000, 8 dimensions) 99, 91, 84, 77,
# 48 and 6 % of the others find themselves, however many candidates are looked at. No error, and `ntotal` is right.
# Without copies all are found in all six.
# Why it matters: data that repeats (faces at valence 0, arousal 0; frames of a video that stands still) does this, and by
# chance much worse from one build to the next. Index each distinct point once.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'P' | tee "$folder/seen"
import faiss
import numpy as np

N, D = 3000, 8
for share in (0.0, 0.4):
    found = []
    for seed in range(6):
        random = np.random.default_rng(seed)
        points = random.standard_normal((N, D)).astype(np.float32)
        copies = random.permutation(N)[: int(share * N)]
        points[copies] = points[0]
        others = np.setdiff1d(np.arange(1, N), copies)
        index = faiss.IndexHNSWFlat(D, 32)
        index.add(points)
        index.hnsw.efSearch = N
        found.append((index.search(points[others], 1)[1][:, 0] == others).mean())
    print(
        f"{share:.0%} copies: points that find themselves: all in {sum(f == 1 for f in found)} of 6 graphs, "
        f"fewer than half in {sum(f < 0.5 for f in found)}"
    )
P
cat >"$folder/expected" <<'X'
0% copies: points that find themselves: all in 6 of 6 graphs, fewer than half in 0
40% copies: points that find themselves: all in 0 of 6 graphs, fewer than half in 2
X
diff "$folder/expected" "$folder/seen" && echo "as on 2026-11-30"
