"""What tensors without memory would have held, computed and sent.

A dispatch mode: it sees every operator of forwards, backwards and collectives. What an operator
allocates and frees inside itself is not seen.
"""

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ACTIVATIONS = "activations"
ELSEWHERE = "elsewhere"
"""Label of what is counted by other means."""

# Operator of torch.distributed -> its name here, and which argument holds what all ranks have in
# the end (all-gather) or bring at first (reduce-scatter).
_COLLECTIVES = {
    "allreduce_": "all_reduce",
    "broadcast_": "broadcast",
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
}
# Without memory there is nothing to fill; the meta device would import a compiler for it, seconds.
_VALUES = {torch.ops.aten.normal_, torch.ops.aten.uniform_}


@dataclass(frozen=True)
class Collective:
    """One collective: its kind, and the bytes of the whole tensor that it is about.

    The sum of an all-reduce, all ranks' parts of an all-gather or a reduce-scatter.
    """

    kind: str
    payload: int


def collective_of(function: Any, arguments: Any) -> Collective | None:
    """The collective that an operator is, seen from a dispatch mode; None where it is none."""
    if function.namespace != "c10d":
        return None
    name = function.overloadpacket.__name__
    assert name in _COLLECTIVES, f"a collective that is not planned for: {name}"
    sizes = [t.numel() * t.element_size() for t in tree_leaves(arguments) if isinstance(t, Tensor)]
    if name == "allgather_":  # a list of parts, and the own one
        return Collective("all_gather", sum(sizes[:-1]))
    return Collective(_COLLECTIVES[name], max(sizes))


@dataclass
class Mark:
    """Something that happened between two operators: `at` counts the moments before it."""

    at: int
    what: str
    about: Any = None


class Recorder(TorchDispatchMode):
    """Live bytes by label after every operator, FLOPs, collectives, and marks set by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.live: Counter[str] = Counter()
        self.moments: list[dict[str, int]] = []
        self.flops = 0
        self.collectives: list[Collective] = []
        self.marks: list[Mark] = []
        self._label = ACTIVATIONS
        self._labels: dict[int, str] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and to hide from the compiler it would be imported first."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operator and note what came of it."""
        if func.overloadpacket in _VALUES:
            return args[0]
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        if (found := collective_of(func, args)) is not None:
            self.collectives.append(found)
        self.hold(out)
        return out

    def hold(self, tensors: Any, label: str | None = None) -> None:
        """Count the storages of tensors as held, until they are freed.

        A label given moves what is counted already under it.
        """
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage(), label)
        self.moments.append(dict(self.live))

    def mark(self, what: str, about: Any = None) -> None:
        """Note that something happens here."""
        self.marks.append(Mark(len(self.moments), what, about))

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """Count what is allocated inside under a label."""
        before, self._label = self._label, label
        try:
            yield
        finally:
            self._label = before

    def _hold(self, storage: torch.UntypedStorage, label: str | None) -> None:
        key = storage._cdata
        if key not in self._labels:
            self._labels[key] = label or self._label
            self.live[self._labels[key]] += storage.nbytes()
            weakref.finalize(storage, self._freed, key, storage.nbytes())
        elif label is not None:
            self.live[self._labels[key]] -= storage.nbytes()
            self.live[label] += storage.nbytes()
            self._labels[key] = label

    def _freed(self, key: int, size: int) -> None:
        self.live[self._labels.pop(key)] -= size
