"""A player's DeepSpeed engine on paper: what ZeRO keeps, allocates and sends, as of DeepSpeed 0.19.

Tensors without memory stand in the places of its buffers while a step is rehearsed. Stages after
Rajbhandari et al. 2020, section 5; what DeepSpeed adds is told where it is added.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from agehpc.config.plan import PERSISTENT, Plan, bucket_elements
from agehpc.models.frozen import frozen
from agehpc.planning.recorder import ELSEWHERE, Collective, Recorder

WIDTH = 4  # bytes of a float32
WEIGHTS, GRADIENTS, OPTIMIZER = "weights", "gradients", "optimizer"
AVERAGES, BUCKETS = "averages", "buckets"


class PaperEngine:
    """What `run_turns` asks of an engine, for a module without memory.

    Args:
        module: the player's network; its parameters come to lie where ZeRO puts them.
        stage: ZeRO stage.
        plan: batch arithmetic.
        averaged: an average of the weights is kept.
        recorder: sees everything.
        autocast: entered around forwards.
        gpu: where it trains: there Adam works on all tensors at once, not on one after the other,
            and gradients are reduced and scattered by NCCL; gloo sums a copy of them all.
    """

    def __init__(
        self,
        module: nn.Module,
        stage: int,
        plan: Plan,
        averaged: bool,
        recorder: Recorder,
        autocast: Any,
        gpu: bool,
    ) -> None:
        self.module, self.stage, self.plan, self.recorder = module, stage, plan, recorder
        self._autocast, self._gpu = autocast, gpu
        self.parameters = list(module.parameters())
        self._numels = [p.numel() for p in self.parameters]
        self._device = self.parameters[0].device
        self._whole, self.shard = sharded(self._numels, stage, plan.world_size)
        self._micro, self._bucket, self._filled = 0, None, []
        self._kept = [*self._states(averaged), *module.buffers()]
        recorder.hold(list(module.buffers()), WEIGHTS)
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._arrived)
        if stage == 3:
            self._mark_uses()

    def _new(self, elements: int, label: str) -> Tensor:
        with self.recorder.labelled(label):
            return torch.empty(elements, device=self._device)

    def _states(self, averaged: bool) -> Iterator[Tensor]:
        if self.stage == 0:
            self.recorder.hold(self.parameters, WEIGHTS)
        elif self.stage < 3:  # one flat tensor, and a copy of this rank's part for the optimizer
            yield from self._flattened()
            yield self._new(self.shard, OPTIMIZER)
        else:  # whole tensors come and go: see gathering.py
            yield self._new(self.shard, WEIGHTS)
            yield self._new(self.shard, GRADIENTS)
            yield self._new(bucket_elements(sum(self._numels)), BUCKETS)
            self.recorder.hold(self.parameters, ELSEWHERE)
            # DeepSpeed means not to copy float32 weights for the optimizer, but compares a device
            # with its name and does.
            yield self._new(self.shard, OPTIMIZER)
        yield self._new(2 * self.shard, OPTIMIZER)
        if averaged:
            yield self._new(self.shard if self.stage == 3 else sum(self._numels), AVERAGES)

    def _flattened(self) -> Iterator[Tensor]:
        flat = self._new(self._whole, WEIGHTS)
        start = 0
        for parameter, numel in zip(self.parameters, self._numels, strict=True):
            parameter.data = flat[start : start + numel].view(parameter.shape)
            start += numel
        yield flat

    def _mark_uses(self) -> None:
        """Let forwards and backwards of every layer say when they use its parameters."""
        numbers = {id(p): i for i, p in enumerate(self.parameters)}
        for module in self.module.modules():
            owned = tuple(numbers[id(p)] for p in module.parameters(recurse=False))
            if owned:
                module.register_forward_pre_hook(partial(self._enter, owned))
                module.register_forward_hook(partial(self._leave, owned))

    def _enter(self, owned: tuple[int, ...], module: nn.Module, arguments: Any) -> Any:
        """A layer's forward begins. Its backward is over with the gradients of its inputs.

        Where it has none to give, DeepSpeed does not notice that it is over.
        """
        self.recorder.mark("use", (self, owned))

        def own(x: Any) -> Any:
            if not (isinstance(x, Tensor) and x.requires_grad):
                return x
            x = x.view_as(x)
            x.register_hook(lambda _: self.recorder.mark("passed back", (self, owned)))
            return x

        return tuple(own(x) for x in arguments)

    def _leave(self, owned: tuple[int, ...], module: nn.Module, _: Any, out: Tensor) -> None:
        """A layer's forward is over. Its backward begins with the gradient of its output."""
        self.recorder.mark("used", (self, owned))
        if out.requires_grad:
            out.register_hook(lambda _: self.recorder.mark("use", (self, owned)))

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The module's forward."""
        if self.stage == 3:
            self.recorder.mark("pass", (self, ()))
        with self._autocast():
            return self.module(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Backward, and what ZeRO does with the gradients of a micro-batch."""
        last = self._micro == self.plan.accumulation - 1
        if self.stage in (1, 2) and self._bucket is None:
            self._bucket = self._new(bucket_elements(sum(self._numels)), BUCKETS)
        loss.backward()
        if self.stage == 0 and last:
            self._sum(GRADIENTS)
        elif self.stage == 1 and last:
            for parameter in self.parameters:
                parameter.grad = None
            self._sum(BUCKETS)
        elif self.stage == 2:
            self._sum(BUCKETS)
            if not last:  # this rank's part is added up in the first bucket
                self._filled = self._filled or [self._bucket]
                self._bucket = None
        elif self.stage == 3:
            copies = 1 if self._gpu or self.plan.world_size == 1 else 2
            self._new(copies * self.plan.world_size * self.shard, BUCKETS)
            self._sends("reduce_scatter", self.plan.world_size * self.shard)

    def _arrived(self, parameter: Tensor) -> None:
        """A gradient is complete: it moves to the bucket where there is one to move to."""
        if self.stage >= 2:
            parameter.grad = None
        elif parameter.grad is not None:
            self.recorder.hold(parameter.grad, GRADIENTS)

    def _sum(self, label: str) -> None:
        """An all-reduce of all gradients, on a flattened copy: in stages 1 and 2 as well."""
        self._new(bucket_elements(sum(self._numels)), label)
        self._sends("all_reduce", sum(self._numels))

    def step(self) -> None:
        """The micro-batch is over; after the last the optimizer steps and weights are gathered."""
        self._micro = (self._micro + 1) % self.plan.accumulation
        if self._micro:
            return
        if self.stage == 0:
            largest = sum(self._numels) if self._gpu else 2 * max(self._numels)
            self._new(largest, OPTIMIZER)
            for parameter in self.parameters:
                parameter.grad = None
            return
        gradients = self._new(self.shard, GRADIENTS)
        self._bucket, self._filled = None, []
        self._new(self.shard if self._gpu else 2 * self.shard, OPTIMIZER)
        del gradients
        if self.stage < 3:
            self._sends("all_reduce", 1)  # the gradient's norm
            self._sends("all_gather", self._whole)
        else:
            self._sends("all_reduce", 2)
            self.recorder.mark("step", (self, ()))

    def _sends(self, kind: str, elements: int) -> None:
        if self.plan.world_size > 1:
            self.recorder.collectives.append(Collective(kind, WIDTH * elements))

    def frozen(self) -> contextlib.AbstractContextManager[None]:
        """As the real one."""
        return frozen(self.module)

    @property
    def persistent(self) -> frozenset[int]:
        """Parameters small enough for stage 3 to gather after each step rather than at need."""
        return frozenset(i for i, n in enumerate(self._numels) if n <= PERSISTENT)

    def padded(self, numbers: Any) -> int:
        """Elements of parameters with the padding that makes their parts equal."""
        world = self.plan.world_size
        return sum(-(-self._numels[i] // world) * world for i in numbers)


def sharded(numels: list[int], stage: int, world_size: int) -> tuple[int, int]:
    """Elements of all weights as ZeRO lays them out, and of one rank's part.

    At stages 1 and 2 in one tensor that starts every part at a multiple of 2 elements, at 3 each
    parameter by itself.
    """
    if stage == 0:
        return sum(numels), sum(numels)
    if stage == 3:
        shard = sum(-(-n // world_size) for n in numels)
        return shard * world_size, shard
    shard = 2 * -(-sum(numels) // (2 * world_size))
    return shard * world_size, shard
