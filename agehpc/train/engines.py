"""One DeepSpeed engine a player: the only module that touches DeepSpeed.

What holds for two engines that judge each other, each rule guarded by tests/train/test_parity.py:
every other player is frozen in a turn (DeepSpeed#4923); forwards go to the module itself at ZeRO
stages 0 to 2 (the engine's own forward refuses a second differentiation) and to the engine at 3;
one backward a micro-batch; every option that has a default worth fearing is written down
(gradient clipping has been 1.0 unless told otherwise since DeepSpeed 0.19.3).
"""

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from agehpc.config.plan import Plan, bucket_elements
from agehpc.config.schema import PlayerConfig
from agehpc.models.frozen import frozen

MOMENTS = ("exp_avg", "exp_avg_sq")


def import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed for a device and return it.

    Before the process group begins: functions that are defined later, torch.distributed.nn's among
    them, keep the world's group as the default of an argument, for good.
    """
    importlib.import_module("torch.distributed.nn")
    # Read once, at import: without it a CPU run on a machine with GPUs would pick them.
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed

    # DeepSpeed 0.19 still calls two collectives by names that torch 2.14 renamed.
    warnings.filterwarnings(
        "ignore",
        message=r"`torch\.distributed\.(all_gather_into_tensor|reduce_scatter_tensor)` is deprec",
        category=FutureWarning,
    )
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # On a CPU the first use compiles a shared-memory all-reduce for minutes; gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def destroy_groups() -> None:
    """Destroy all process groups, those that DeepSpeed refers to as well.

    The threads of a gloo group that is left over at exit may ask for an interpreter that has gone,
    which aborts a process that had ended well.
    """
    import deepspeed

    if deepspeed.comm.is_initialized():
        deepspeed.comm.destroy_process_group()
    else:
        dist.destroy_process_group()


def process_groups(engines: Iterable["Engine"]) -> set[dist.ProcessGroup]:
    """The groups that training communicates in: the world's, and DeepSpeed's."""
    found = {group for engine in engines for group in engine.groups()}
    assert dist.group.WORLD is not None
    return found | {dist.group.WORLD}


class Engine:
    """A player's module, optimizer and ZeRO sharding.

    Every method is collective unless it says otherwise.

    Args:
        name: the player's name.
        module: its network, float32, with the weights to start from, equal on every rank.
        player: its optimizer and sharding.
        plan: batch arithmetic.
        precision: `bf16` runs forwards under autocast; weights and moments stay float32.
        device: where it trains.
        bound: weights are clipped to [-bound, bound] after each step; None leaves them alone.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        player: PlayerConfig,
        plan: Plan,
        precision: str,
        device: torch.device,
        bound: float | None = None,
    ) -> None:
        self._deepspeed = import_deepspeed(device)
        self.name, self.stage, self.device = name, player.zero.stage, device
        self.module = module.to(device).train()
        self.precision = precision
        optim = player.optim
        optimizer = torch.optim.AdamW(
            self.module.parameters(),
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
        if bound is not None:
            # In the optimizer, as ZeRO's shards of the weights live there alone.
            optimizer.register_step_post_hook(lambda adam, *_: _clip(adam, bound))
        self._largest = torch.zeros((), device=device)
        parameters = sum(p.numel() for p in self.module.parameters())
        self._engine, *_ = self._deepspeed.initialize(
            model=self.module,
            optimizer=optimizer,
            config=deepspeed_config(player, plan, precision, parameters),
            dist_init_required=False,
        )

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The player's forward, differentiable."""
        call = self._engine if self.stage == 3 else self.module
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return call(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of one micro-batch's loss."""
        self._engine.backward(loss)

    def step(self) -> None:
        """One micro-batch is over: DeepSpeed updates the weights at the last of a step."""
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
            return
        if self.stage == 0:
            norm = nn.utils.get_total_norm(
                p.grad for p in self.module.parameters() if p.grad is not None
            )
            self._engine.step()
        else:
            self._engine.step()
            # Infinite where DeepSpeed left a step out because of a gradient that is not finite.
            norm = self._engine.get_global_grad_norm()
        norm = torch.as_tensor(norm, dtype=torch.float32, device=self.device)
        self._largest = torch.maximum(self._largest, norm)

    def take_largest_norm(self) -> Tensor:
        """Largest gradient norm, before clipping, of the steps since the last call: a scalar.

        NaN or infinite where a gradient was not finite. Not collective.
        """
        largest, self._largest = self._largest, torch.zeros_like(self._largest)
        return largest

    def set_rate(self, lr: float) -> None:
        """Take steps with another learning rate. Not collective."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr

    def frozen(self) -> contextlib.AbstractContextManager[None]:
        """No gradients, hooks or buffer updates for this player inside. Not collective."""
        return frozen(self.module)

    def local_weights(self) -> dict[str, Tensor]:
        """This rank's float32 weights by name: whole ones, or its flat shards at stage 3.

        The live tensors, not copies. Not collective.
        """
        get = self._deepspeed.utils.safe_get_local_fp32_param
        return {n: get(p) if self.stage == 3 else p.data for n, p in self._parameters()}

    def gather(self, local: dict[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors from what `local_weights` holds on each rank, or averages of it."""
        if self.stage < 3:
            return local
        # DeepSpeed keeps a sharded parameter's own shape beside it.
        shapes = {n: p.ds_shape for n, p in self._parameters()}  # type: ignore[attr-defined]
        whole = {}
        for name, shard in local.items():
            parts = [torch.empty_like(shard) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, shard.contiguous())
            whole[name] = torch.cat(parts)[: shapes[name].numel()].view(shapes[name])
        return whole

    def scatter(self, whole: dict[str, Tensor]) -> dict[str, Tensor]:
        """This rank's part of whole tensors: the inverse of `gather`. Not collective."""
        if self.stage < 3:
            return {name: tensor.to(self.device) for name, tensor in whole.items()}
        parts = {}
        for name, shard in self.local_weights().items():
            flat = torch.zeros(shard.numel() * dist.get_world_size())
            flat[: whole[name].numel()] = whole[name].flatten()
            parts[name] = flat.view(-1, shard.numel())[dist.get_rank()].to(self.device)
        return parts

    def load_weights(self, whole: Mapping[str, Tensor]) -> None:
        """Set the weights and the running statistics, as a checkpoint holds them."""
        utils, zero = self._deepspeed.utils, self._deepspeed.zero
        parameters = self._parameters()
        mine = self.scatter({name: whole[name] for name, _ in parameters})
        # At stages 1 to 3 the optimizer steps on a copy, in shards.
        with torch.no_grad():
            if self.stage == 3:
                with zero.GatheredParameters([p for _, p in parameters], modifier_rank=0):
                    for name, p in parameters:
                        if dist.get_rank() == 0:
                            p.copy_(whole[name])
                for name, p in parameters:
                    utils.safe_set_local_fp32_param(p, mine[name])
            else:
                for name, p in parameters:
                    p.copy_(mine[name])
                    utils.safe_set_full_fp32_param(p, mine[name])
            for name, buffer in self.module.named_buffers():
                buffer.copy_(whole[name])

    def weights(self) -> dict[str, Tensor]:
        """Whole float32 weights by parameter name."""
        return self.gather(self.local_weights())

    def buffers(self) -> dict[str, Tensor]:
        """Running statistics by name; the live tensors. Not collective."""
        return dict(self.module.named_buffers())

    def average_buffers(self) -> None:
        """Make running statistics equal on all ranks: ZeRO does not touch buffers."""
        if dist.get_world_size() == 1:
            return
        for buffer in self.module.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= dist.get_world_size()

    def moments(self) -> dict[str, Tensor]:
        """Whole float32 moments, `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`.

        Zeros before the first step.
        """
        state = self._states()
        utils = self._deepspeed.utils
        moments = {}
        for key in MOMENTS:
            if self.stage == 3:
                get = utils.safe_get_local_optimizer_state
                whole = self.gather({n: get(p, key) for n, p in self._parameters()})
            elif self.stage == 0:
                whole = {n: state[p][key] for n, p in self._parameters()}
            else:
                get = utils.safe_get_full_optimizer_state
                whole = {n: get(p, key) for n, p in self._parameters()}
            moments |= {f"{name}.{key}": tensor for name, tensor in whole.items()}
        return moments

    def load_moments(self, moments: dict[str, Tensor], steps: int) -> None:
        """Set the moments, and the number of steps behind Adam's bias correction."""
        state = self._states()
        utils = self._deepspeed.utils
        for key in MOMENTS:
            whole = {name: moments[f"{name}.{key}"] for name, _ in self._parameters()}
            mine = self.scatter(whole)
            for name, p in self._parameters():
                if self.stage == 3:
                    utils.safe_set_local_optimizer_state(p, mine[name], key)
                elif self.stage == 0:
                    state[p][key].copy_(mine[name])
                else:
                    utils.safe_set_full_optimizer_state(p, mine[name], key)
        for values in state.values():
            values["step"].fill_(float(steps))

    def groups(self) -> list[dist.ProcessGroup]:
        """The process groups that DeepSpeed communicates in for it. Not collective."""
        return [self._engine.data_parallel_group, self._engine.seq_data_parallel_group]

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.module.named_parameters())

    def _states(self) -> Any:
        """Adam's state, created where torch has left that to the first step."""
        optimizer = self._engine.optimizer
        if self.stage == 0:
            base, flat = optimizer, list(self.module.parameters())
        elif self.stage < 3:
            base, flat = optimizer.optimizer, optimizer.single_partition_of_fp32_groups
        else:
            base, flat = optimizer.optimizer, optimizer.fp32_partitioned_groups_flat
        for p in flat:
            if not base.state[p]:
                base.state[p] = {"step": torch.tensor(0.0)}
                base.state[p] |= {key: torch.zeros_like(p) for key in MOMENTS}
        if self.stage in (1, 2):
            optimizer._lazy_init_hp_params_optimizer_state()
        return base.state


@torch.no_grad()
def _clip(optimizer: torch.optim.Optimizer, bound: float) -> None:
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.clamp_(-bound, bound)


def deepspeed_config(
    player: PlayerConfig, plan: Plan, precision: str, parameters: int
) -> dict[str, Any]:
    """The engine's configuration, with every option that changes results written down."""
    config: dict[str, Any] = {
        "train_batch_size": plan.global_batch,
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        "gradient_clipping": player.clip,
        "steps_per_print": 2**31 - 1,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": player.zero.stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "round_robin_gradients": False,
            # A buffer of so many elements is held whatever the model's size; the default of 5e8
            # costs each player 1.9 GiB.
            "reduce_bucket_size": bucket_elements(parameters),
        },
        "communication_data_type": "fp32",
    }
    if precision == "bf16" and player.zero.stage > 0:
        # Without the empty list gradients of convolutions would be averaged in bf16, whatever
        # communication_data_type says.
        config["torch_autocast"] = {
            "enabled": True,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        }
    return config
