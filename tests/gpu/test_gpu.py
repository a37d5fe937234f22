"""What only a GPU can show; skipped where there is none."""

import numpy as np
import pytest
import torch

from ldlva_dist.index.graph import nearest_neighbors
from ldlva_dist.models.ldlva import LDLVA
from ldlva_dist.models.resnet import ResNet

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def test_the_graph_of_the_gpu_equals_the_kd_trees() -> None:
    va = np.random.default_rng(0).uniform(-1, 1, (20_000, 2)).astype(np.float32)
    va[5000:5100] = va[0]  # ties
    on_gpu, on_cpu = (nearest_neighbors(va, 16, backend=backend)[0] for backend in ("faiss_gpu", "kdtree"))
    np.testing.assert_array_equal(on_gpu, on_cpu)


def test_the_network_gives_the_same_logits_on_the_gpu() -> None:
    torch.manual_seed(0)
    model = LDLVA(ResNet(18), 7, recipe="official").eval()
    images = torch.randint(0, 256, (4, 112, 112, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model(images).logits_BC
        torch.testing.assert_close(model.cuda()(images.cuda()).logits_BC.cpu(), expected, atol=1e-3, rtol=1e-3)
