"""DeepSpeed behind five verbs: forward, backward, step, state, restore.

Optimiser state is saved per parameter under the parameter's name, whole, as plain tensors. DeepSpeed's own checkpoints
are pickles cut for one world size; these load on any number of ranks and execute nothing.
"""

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ldlva_dist.errors import DataError
from ldlva_dist.training.device.copies import copies_for
from ldlva_dist.training.device.gradient_mean import GradientMean

BUCKET_NUMBERS = 50_000_000
"""Gradients reduced at a time. DeepSpeed's own 500 million would take 4 GB of each GPU, whatever the network's size."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What DeepSpeed is told; see OptimConfig and TrainingConfig for the meaning."""

    zero_stage: int
    gradient_accumulation_steps: int
    micro_batch_size: int
    gradient_clipping: float | None
    bf16: bool
    use_gpu: bool


def build_optimizer(
    model: nn.Module, name: str, *, lr: float, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    """A torch optimiser; weight decay spares biases, norms and class centres.

    The optimiser comes from torch because DeepSpeed's own would be compiled on first use.
    """
    decayed = [p for key, p in model.named_parameters() if p.ndim > 1 and key != "centers"]
    spared = [p for key, p in model.named_parameters() if p.ndim <= 1 or key == "centers"]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    match name:
        case "adam":
            return _without_compiler(torch.optim.Adam)(groups, lr=lr)
        case "adamw":
            return _without_compiler(torch.optim.AdamW)(groups, lr=lr)
        case _:
            return _without_compiler(torch.optim.SGD)(groups, lr=lr, momentum=momentum)


def _without_compiler(optimizer: type[torch.optim.Optimizer]) -> Any:
    """The same optimiser without torch's compiler, which nothing here uses: 1.4 s of CPU in each worker.

    Its step imports the compiler, to tell it where a compiled step would have to break; methods that compiled code
    must leave alone do so when they are first called, unless they have been given what to call instead.
    """
    for method in vars(torch.optim.Optimizer).values():
        if function := getattr(method, "__wrapped__", None):
            vars(function).setdefault("__dynamo_disable", function)
    return type(optimizer.__name__, (optimizer,), {"step": torch.no_grad()(inspect.unwrap(optimizer.step))})


class Engine:
    """A model under DeepSpeed. Every rank makes the same calls in the same order."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, settings: EngineSettings) -> None:
        """Wrap the model; torch.distributed must be initialised, weights loaded."""
        deepspeed = import_deepspeed(settings.use_gpu)
        self.module: Any = model
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self._stage, self.device = settings.zero_stage, next(model.parameters()).device
        _prepare_device(self.device)
        self._engine, self._wrapper, _, _ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=_deepspeed_config(settings)
        )
        is_alone = dist.get_world_size() == 1
        self._mean: GradientMean | None = None
        if self._stage == 0 and (is_alone or not settings.use_gpu):
            # DeepSpeed would copy all gradients together and apart again to reduce them over one rank, and would leave
            # ranks on CPUs to gloo's ring, whose messages wait for each other.
            self._engine.enable_backward_allreduce = False
            self._mean = None if is_alone else GradientMean(self._names)
        self._optimizer: torch.optim.Optimizer = getattr(self._wrapper, "optimizer", self._wrapper)
        self.copies = copies_for(self.device)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Forward."""
        return self._engine(*args, **kwargs)

    def train(self, mode: bool = True) -> None:
        """Set training or evaluation mode."""
        self._engine.train(mode)

    def backward(self, loss: Tensor) -> None:
        """Add this micro-batch's gradient; a step takes the mean over ranks and micro-batches."""
        self._engine.backward(loss)

    def begin_step(self, learning_rate: float) -> None:
        """Take the next optimiser step at a rate; the gradients of other ranks may come from now on."""
        if self._mean:
            self._mean.expect()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def step(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Take the optimiser step if this micro-batch completes one; ``meanwhile`` is for while gradients travel."""
        if self._mean and self._engine.is_gradient_accumulation_boundary():
            self._mean.take(meanwhile)
        self._engine.step()

    @property
    def waited_s(self) -> float:
        """Seconds, in all, that steps stood still for what other ranks send; known at ZeRO-0 on CPUs, else 0."""
        return self._mean.waited_s if self._mean else 0.0

    @property
    def skipped_steps(self) -> int:
        """Steps that DeepSpeed left out because a gradient was not finite.

        It looks at gradients only where it shares them out (ZeRO-1 to 3) and clips them: fp32 and bf16 have no loss
        scale that could overflow.
        """
        return self._engine.skipped_steps

    @skipped_steps.setter
    def skipped_steps(self, count: int) -> None:
        self._engine.skipped_steps = count

    def average_buffers(self) -> None:
        """Give all ranks the mean of their floating-point buffers (running statistics). Collective."""
        buffers = [b for b in self.module.buffers() if b.is_floating_point()]
        if not buffers or dist.get_world_size() == 1:
            return
        flat = torch.cat([b.flatten() for b in buffers])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for buffer, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))

    def model_state(self) -> dict[str, Tensor]:
        """A copy of the whole weights and buffers on the first rank's CPU; other ranks get none. Collective."""
        from deepspeed.utils import safe_get_full_fp32_param

        is_first = dist.get_rank() == 0
        state = {name: _copied(value) for name, value in self.module.state_dict().items()} if is_first else {}
        for parameter, name in self._names.items() if self._stage == 3 else ():
            whole = safe_get_full_fp32_param(parameter)
            assert whole is not None, f"DeepSpeed holds no {name}"
            if is_first:
                state[name] = whole.cpu()
        return state

    def optimizer_state(self) -> dict[str, Tensor]:
        """A copy of the whole optimiser state on the first rank's CPU; other ranks get none. Collective.

        Its names are ``NAME/parameter``, and of scalars such as ``step`` their own.
        """
        state: dict[str, Tensor] = {}
        for held in self._optimizer.state.values():
            state |= {key: _copied(value) for key, value in held.items() if _is_scalar(value)}
        for key in self._moment_names():
            state |= {f"{key}/{name}": value for name, value in self._whole_moments(key).items()}
        return state if dist.get_rank() == 0 else {}

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`optimizer_state` gave, on any number of ranks; DataError for another's. Collective."""
        moments = sorted({key.split("/", 1)[0] for key in state if "/" in key})
        _require_fitting(state, moments, self._names)
        for held in self._held_parameters():
            entry = self._optimizer.state[held]
            entry |= {key: value.clone() for key, value in state.items() if "/" not in key}
            entry |= {key: torch.zeros_like(held) for key in moments if key not in entry}
        for key in moments:
            for parameter, name in self._names.items():
                self._set_moment(parameter, key, state[f"{key}/{name}"])

    def _held_parameters(self) -> list[Tensor]:
        """What the torch optimiser sees: parameters (ZeRO-0) or this rank's flat partitions of them."""
        if self._stage == 3:
            return list(self._wrapper.fp32_partitioned_groups_flat)
        return [held for group in self._optimizer.param_groups for held in group["params"]]

    def _moment_names(self) -> list[str]:
        held = [entry for entry in self._optimizer.state.values() if entry]
        names = {key for entry in held for key, value in entry.items() if torch.is_tensor(value) and value.ndim > 0}
        return sorted(names)

    def _whole_moments(self, key: str) -> dict[str, Tensor]:
        """Copies on the first rank's CPU by the parameters' names."""
        is_first = dist.get_rank() == 0
        if self._stage == 0:
            return {name: _copied(self._optimizer.state[p][key]) for p, name in self._names.items()} if is_first else {}
        if self._stage == 3:
            return self._gathered_moments(key)
        # One sum of one flat tensor, in which every number is some rank's and zero elsewhere.
        sizes = [parameter.numel() for parameter in self._names]
        whole = torch.zeros(sum(sizes), device=self.device)
        for parameter, part in zip(self._names, whole.split(sizes), strict=True):
            for mine, partition in self._fragments(parameter, key):
                part[mine] = partition
        dist.reduce(whole, dst=0)
        parts = whole.cpu().split(sizes) if is_first else ()
        return {n: part.clone().view(p.shape) for (p, n), part in zip(self._names.items(), parts, strict=False)}

    def _gathered_moments(self, key: str) -> dict[str, Tensor]:
        """The same of ZeRO-3, whose partitions DeepSpeed itself puts together, on all ranks."""
        from deepspeed.utils import safe_get_full_optimizer_state

        moments = {}
        for parameter, name in self._names.items():
            whole = safe_get_full_optimizer_state(parameter, key)
            assert whole is not None, f"DeepSpeed holds no {key}"
            if dist.get_rank() == 0:
                moments[name] = whole.cpu()
        return moments

    def _set_moment(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        value = value.to(parameter.device)
        if self._stage == 0:
            self._optimizer.state[parameter][key].copy_(value)
        elif self._stage == 3:
            from deepspeed.utils import safe_set_local_optimizer_state

            # DeepSpeed's whole-tensor setter does not pad, and refuses padding: the last partition overruns the end.
            world_size = dist.get_world_size()
            padded = nn.functional.pad(value.flatten(), (0, -value.numel() % world_size))
            safe_set_local_optimizer_state(parameter, padded.chunk(world_size)[dist.get_rank()], key)
        else:
            for mine, partition in self._fragments(parameter, key):
                partition.copy_(value.view(-1)[mine])

    def _fragments(self, parameter: Any, key: str) -> Iterator[tuple[slice, Tensor]]:
        """ZeRO-1 and 2: the stretch of a parameter that this rank owns, and its place in the rank's flat moments."""
        mapping = parameter._hp_mapping
        if mapping is None:
            return
        whole, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
        held = self._wrapper.single_partition_of_fp32_groups[mapping.param_group_index]
        moments = self._optimizer.state[held][key]
        yield slice(whole.start, whole.start + whole.numel), moments.narrow(0, flat.start, flat.numel)


def _require_fitting(state: Mapping[str, Tensor], moments: Sequence[str], names: Mapping[nn.Parameter, str]) -> None:
    shapes = {f"{key}/{name}": _shape(p) for key in moments for p, name in names.items()}
    for key in sorted({*shapes, *state}):
        there, here = state[key].shape if key in state else None, shapes.get(key, torch.Size())
        if there != here:
            raise DataError(f"the optimiser's state that was saved does not fit: {key} is {there}, must be {here}")


def _shape(parameter: Any) -> torch.Size:
    """That of the whole parameter, of which ZeRO-3 holds a part."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def _is_scalar(value: Any) -> bool:
    return torch.is_tensor(value) and value.ndim == 0


def _copied(value: Tensor) -> Tensor:
    """A copy on the CPU, which training does not move, in row-major memory, which is all that safetensors takes."""
    return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _prepare_device(device: torch.device) -> None:
    """Let DeepSpeed keep to the model's GPU, and cuDNN look for its fastest ways.

    DeepSpeed takes LOCAL_RANK for the device's index; Ray counts that by node addresses, and visible GPUs by node ids.
    """
    if device.type == "cuda":
        os.environ["LOCAL_RANK"] = str(device.index)
        torch.backends.cudnn.benchmark = True  # shapes stay as they are: each is tried out once


def import_deepspeed(use_gpu: bool) -> Any:
    """The module, imported without what is not used here."""
    if not use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    # Its autotuner, which is not used here, imports MLflow where that is installed: a fifth of a worker's start.
    is_hidden = sys.modules.setdefault("mlflow", cast(Any, None)) is None
    import deepspeed
    import deepspeed.ops

    if is_hidden:
        del sys.modules["mlflow"]

    _import_muon()
    if not use_gpu:
        # The shared-memory extension, which only CPUs have, is for inference; init_distributed would spend a minute
        # compiling it. To ask for it where there are GPUs would look for nvcc, and warn of every operator.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed


def _import_muon() -> None:
    """Import DeepSpeed's Muon, which is not used here, but decorates functions with torch.compile when it is imported.

    Under ZeRO-1 to 3 it is imported in any case; torch's compiler would be another 1.4 s of CPU in each worker.
    """
    compiler: Any = importlib.import_module("deepspeed.runtime.compiler")
    compile_function = compiler.compile
    compiler.compile = lambda *_, **__: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = compile_function


def _deepspeed_config(settings: EngineSettings) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": settings.zero_stage,
        "reduce_bucket_size": BUCKET_NUMBERS,
        "allgather_bucket_size": BUCKET_NUMBERS,
    }
    if settings.zero_stage in (1, 2) and not settings.gradient_clipping:
        zero["compute_grad_norm"] = False  # the host would wait for it, and nobody asks
    return {
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "gradient_clipping": settings.gradient_clipping or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {"enabled": settings.bf16, "dtype": "bfloat16"},
        "steps_per_print": 1 << 62,
        "timers": {"throughput": {"enabled": False}},  # it would wait for the device twice a step
    }
