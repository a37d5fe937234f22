#!/usr/bin/env bash
# pykdtree says 1.34e154 and 4294967295 for a neighbour that does not exist.
#
# One would guess: as in scipy.spatial.cKDTree, whose interface it is made to resemble, a missing neighbour has distance inf
# and index n, the number of points.
# Seen on 2026-11-28 with pykdtree 1.4.3: asked for 4 neighbours among 2 points it gives the distance 1.3407807929942596e+154
# (the root of the largest float64; 1.8446742974197924e+19 in float32) and the index 4294967295 (the largest uint32).
# Why it matters: isfinite and "index == n" find nothing missing; as int32 the index is -1, the last row of a numpy array.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pykdtree==1.4.3 scipy==1.17.1 numpy==2.4.6 >"$work/pip" 2>&1 || { cat "$work/pip"; exit 2; }
cd "$work"
"$work/venv/bin/python" - <<'P'
import numpy as np
from pykdtree.kdtree import KDTree
from scipy.spatial import cKDTree

points = np.array([[0.0, 0.0], [1.0, 0.0]])
print("scipy:", *cKDTree(points).query(points[:1], k=4))
for dtype, missing in ((np.float64, 1.3407807929942596e154), (np.float32, 1.8446742974197924e19)):
    tree = KDTree(points.astype(dtype))
    distances, rows = tree.query(points[:1].astype(dtype), k=4)
    print(f"pykdtree, {np.dtype(dtype)}:", distances, rows)
    if not (np.isfinite(distances).all() and (rows[0, 2:] == 4294967295).all()):
        raise SystemExit("changed: a missing neighbour is told otherwise")
    assert (distances[0, 2:] == dtype(missing)).all()
P
