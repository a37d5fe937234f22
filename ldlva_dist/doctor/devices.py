"""GPUs as the driver, torch and FAISS see them, and DeepSpeed doing one step. Each is looked at by its own process."""

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ldlva_dist.doctor.finding import Finding, Look
from ldlva_dist.doctor.software import installed

SMI_LIMIT_S = 15
DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")


def look_at_driver() -> Look:
    """Facts ``driver_gpus`` and ``driver_cuda``, the newest CUDA that the driver serves."""
    there = len(list(DRIVER_GPUS.iterdir())) if DRIVER_GPUS.exists() else 0
    try:
        told = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=SMI_LIMIT_S, check=True).stdout
        names = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=SMI_LIMIT_S, check=True
        ).stdout.splitlines()
    except FileNotFoundError:
        if not there:
            return Look(facts={"driver_gpus": 0, "driver_cuda": None})
        return _silent_driver(there, "there is no nvidia-smi")
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return _silent_driver(there, f"nvidia-smi failed: {error}")
    version = re.search(r"CUDA Version:\s*([\d.]+)", told)
    cuda = version[1] if version else None
    kinds = sorted({re.sub(r"^GPU \d+: | \(UUID.*", "", name) for name in names})
    found = f"{len(names)} ({', '.join(kinds)}), CUDA up to {cuda}" if names else "none"
    return Look(findings=(_ok("NVIDIA driver", found),), facts={"driver_gpus": len(names), "driver_cuda": cuda})


def look_at_torch() -> Look:
    """Facts ``torch_gpus`` and ``torch_cuda``, the CUDA that torch was built for."""
    import torch

    count, cuda = torch.cuda.device_count(), torch.version.cuda
    built = f"built for CUDA {cuda}" if cuda else "built for CPUs"
    found = f"torch {torch.__version__}, {built}, sees {count} GPUs; {torch.get_num_threads()} threads"
    if count:
        value = float(torch.ones(8, device="cuda").sum())
        if value != 8:
            return Look(findings=(_problem("torch", f"a sum on the GPU gave {value}, not 8", "another GPU or driver"),))
    return Look(findings=(_ok("torch", found),), facts={"torch_gpus": count, "torch_cuda": cuda})


def look_at_faiss() -> Look:
    """Facts ``faiss_gpus``, ``faiss_package`` and ``faiss_cuda``, the CUDA whose runtime was installed with it."""
    package = next((name for name in ("faiss-gpu", "faiss-cpu") if installed(name)), None)
    if package is None:
        return Look(facts={"faiss_gpus": 0, "faiss_package": None, "faiss_cuda": None})
    import faiss
    import numpy as np

    points = np.arange(8, dtype=np.float32).reshape(4, 2)
    index = faiss.IndexFlatL2(2)
    index.add(points)  # pyright: ignore[reportCallIssue]
    found_ids = index.search(points, 1)[1][:, 0].tolist()  # pyright: ignore[reportCallIssue]
    if found_ids != [0, 1, 2, 3]:
        found = f"a search for four points gave {found_ids}"
        return Look(findings=(_problem("FAISS", found, f"pip install --force-reinstall {package}"),))
    count = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    cuda = next((str(n) for n in (13, 12, 11) if installed(f"nvidia-cuda-runtime-cu{n}")), None)
    said = f"{package} {installed(package)} sees {count} GPUs"
    return Look(
        findings=(_ok("FAISS", said),),
        facts={"faiss_gpus": count, "faiss_package": package, "faiss_cuda": cuda if package == "faiss-gpu" else None},
    )


def look_at_deepspeed() -> Look:
    """One step of the training's own engine on one rank; its limit is shorter than the compilation of an operator."""
    import torch
    import torch.distributed as dist

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        moved = _step_moves_weights(torch.nn.Linear(2, 1))
        dist.destroy_process_group()
    if not moved:
        cure = "pip install -c constraints.txt --force-reinstall deepspeed"
        return Look(findings=(_problem("DeepSpeed", "a step moved no weight", cure),))
    said = f"DeepSpeed {installed('deepspeed')}: one step in {time.monotonic() - began:.0f} s, no operator compiled"
    return Look(findings=(_ok("DeepSpeed", said),))


def _step_moves_weights(model: Any) -> bool:
    import torch

    from ldlva_dist.training.engine import Engine, EngineSettings

    os.environ.setdefault("LOCAL_RANK", "0")
    settings = EngineSettings(
        zero_stage=0,
        gradient_accumulation_steps=1,
        micro_batch_size=4,
        gradient_clipping=None,
        bf16=False,
        use_gpu=False,
    )
    before = model.weight.detach().clone()
    engine = Engine(model, torch.optim.SGD(model.parameters(), lr=0.1), settings)
    engine.backward(engine(torch.ones(4, 2)).sum())
    engine.step()
    return not torch.equal(before, model.weight)


def _silent_driver(gpus: int, why: str) -> Look:
    cure = "install or repair the NVIDIA driver; in a container: --gpus all and NVIDIA's container toolkit"
    return Look(
        findings=(_problem("NVIDIA driver", f"{gpus} GPUs are there, but {why}", cure),),
        facts={"driver_gpus": gpus, "driver_cuda": None},
    )


def _ok(check: str, found: str) -> Finding:
    return Finding(area="devices", check=check, level="ok", found=found)


def _problem(check: str, found: str, cure: str) -> Finding:
    return Finding(area="devices", check=check, level="problem", found=found, cure=cure)
