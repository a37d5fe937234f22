#!/usr/bin/env bash
# One would guess: an array that safetensors.numpy.save takes comes back from load with its values, as with 0.7.0; or, where
# its layout is not supported, it is refused, as safetensors.torch.save refuses the same tensor.
# safetensors 0.8.0 with numpy 2.4.6, seen on 2026-12-01: an array in Fortran order (contiguous and dense, as the docstring
# asks for) is written as its memory lies, under its shape. Load gives every value at another place, without an error.
# Transposes are in that order, and by the upstream report the weights of a PCA by scikit-learn. Reported upstream in August
# 2026 (issue 825). Slices fare worse; they are left out here.
# Why it matters: a checkpoint whose every checksum is right holds other weights than those that were trained. This project
# writes its checkpoints by safetensors.torch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
for version in 0.7.0 0.8.0; do
    "$folder/venv/bin/python" -m pip install -q --disable-pip-version-check "safetensors==$version" numpy==2.4.6
    "$folder/venv/bin/python" - <<'P' | tee -a "$folder/seen"
import numpy as np
import safetensors
from safetensors.numpy import load, save

rows = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
arrays = {"in C's order": rows, "in Fortran's order": np.asfortranarray(rows), "transposed": rows.T}
for name, array in arrays.items():
    back = load(save({"array": array}))["array"]
    print(f"safetensors {safetensors.__version__}, {name}: {array.tolist()} came back as {back.tolist()}")
P
done
cat > "$folder/expected" <<'X'
safetensors 0.7.0, in C's order: [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] came back as [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
safetensors 0.7.0, in Fortran's order: [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] came back as [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
safetensors 0.7.0, transposed: [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]] came back as [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
safetensors 0.8.0, in C's order: [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] came back as [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
safetensors 0.8.0, in Fortran's order: [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] came back as [[0.0, 3.0, 1.0], [4.0, 2.0, 5.0]]
safetensors 0.8.0, transposed: [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]] came back as [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
X
diff "$folder/expected" "$folder/seen" && echo "as on 2026-12-01"
