"""What a recorder sees against arithmetic done by hand."""

import torch
import torch.distributed as dist

from agehpc.planning.recorder import ACTIVATIONS, Collective, Recorder
from agehpc.planning.rehearsal import ranks_on_paper


def test_live_bytes_follow_a_forward_and_its_backward():
    recorder = Recorder()
    with torch.device("meta"), recorder:
        first, second = torch.nn.Linear(3, 5, bias=False), torch.nn.Linear(5, 2, bias=False)
        weights = recorder.live[ACTIVATIONS]
        assert weights == 4 * (3 * 5 + 5 * 2)
        x = torch.empty(7, 3)
        hidden = first(x).relu()
        y = second(hidden)
        # The product before relu is not needed by any backward.
        assert recorder.live[ACTIVATIONS] == weights + 4 * (7 * 3 + 7 * 5 + 7 * 2)
        del hidden
        loss = y.sum()
        del y  # no backward needs it, but it does the hidden layer
        assert recorder.live[ACTIVATIONS] == weights + 4 * (7 * 3 + 7 * 5 + 1)
        loss.backward()
        del loss, x
        assert recorder.live[ACTIVATIONS] == 2 * weights
    # Two products forward, then the gradients of both weights and of the hidden layer.
    assert recorder.flops == 2 * 7 * (2 * 3 * 5 + 3 * 5 * 2)


def test_labels_move_with_their_tensors():
    recorder = Recorder()
    with recorder.labelled("weights"), recorder:
        kept = torch.empty(10, device="meta")
    recorder.hold(kept, "other")
    assert dict(recorder.live) == {"weights": 0, "other": 40}
    del kept
    assert recorder.live["other"] == 0


def test_collectives_are_seen_with_the_whole_tensor():
    recorder = Recorder()
    with ranks_on_paper(8), recorder:
        x = torch.empty(6, device="meta")
        dist.all_reduce(x)
        dist.all_gather([torch.empty(6, device="meta") for _ in range(8)], x)
        dist.all_gather_single(torch.empty(48, device="meta"), x)
        dist.broadcast(x, 0)
    assert recorder.collectives == [
        Collective("all_reduce", 24),
        Collective("all_gather", 8 * 24),
        Collective("all_gather", 8 * 24),
        Collective("broadcast", 24),
    ]
