"""Which micro-batches each turn of a step takes."""

from typing import Any

import pytest

from agehpc.config.systems import (
    AgeMomentsSystem,
    AgeSystem,
    CycleganSystem,
    GanSystem,
    Pix2pixSystem,
    SystemConfig,
    VaeSystem,
    WganSystem,
)
from agehpc.systems.step import run_turns
from tests.systems.scenes import PlainEngine, Scene, config

Took = list[tuple[str, int]]


def taken(
    settings: SystemConfig, accumulation: int, *, shared: bool = False
) -> tuple[Took, list[int]]:
    """(player, number of the micro-batch) in order, and the numbers that makers' forwards saw."""
    scene = Scene(config(settings, output="sigmoid"))
    numbers: Any = iter(range(100))
    batches = [
        [scene.batch(step=0, seed=next(numbers)) for _ in range(accumulation)]
        for _ in range(settings.batches)
    ]
    number = {id(micro): n for n, micro in enumerate(m for batch in batches for m in batch)}
    made: list[int] = []
    order: list[int] = []
    make = scene.system.make

    def noted(maker: str, forwards: Any, micro: Any) -> Any:
        made.append(number[id(micro)])
        return make(maker, forwards, micro)

    scene.system.make = noted
    for turn in scene.system.turns:
        loss = turn.loss

        def seen(forwards: Any, micro: Any, outputs: Any, loss: Any = loss) -> Any:
            order.append(number[id(micro)])
            return loss(forwards, micro, outputs)

        object.__setattr__(turn, "loss", seen)
    log: list[Any] = []
    stepped: list[str] = []
    engines: Any = {n: PlainEngine(n, m, log) for n, m in scene.players.items()}
    for engine in engines.values():
        engine.step = lambda name=engine.name: stepped.append(name)
    run_turns(scene.system, engines, batches, shared_forward=shared)
    players = [one.player for one in log]
    assert stepped == players  # one for each micro-batch: the engine counts them itself
    return list(zip(players, order, strict=True)), made


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_critic_has_a_batch_for_each_turn_and_the_generator_the_last(accumulation: int):
    order, made = taken(WganSystem(n_critic=3), accumulation)
    micros = list(range(3 * accumulation))
    last = micros[-accumulation:]
    wanted = [("critic", n) for n in micros] + [("generator", n) for n in last]
    assert order == wanted
    assert made == [*micros, *last]  # made anew in each turn, from the turn's own samples


@pytest.mark.parametrize(("encoder", "generator"), [(1, 2), (2, 1), (2, 3), (1, 1)])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_game_of_moments(encoder: int, generator: int, accumulation: int):
    settings = AgeMomentsSystem(encoder_turns=encoder, generator_turns=generator)
    assert settings.batches == max(encoder, generator)
    assert settings.generator_batches == generator
    order, made = taken(settings, accumulation)
    micros = list(range(settings.batches * accumulation))
    mine = {"encoder": encoder, "generator": generator}
    wanted = [
        (player, n)
        for player, turns in mine.items()
        for n in micros[len(micros) - turns * accumulation :]
    ]
    assert order == wanted
    assert made == [n for _, n in wanted]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(
    "settings",
    [GanSystem(), AgeSystem(), Pix2pixSystem(), CycleganSystem(), VaeSystem()],
    ids=lambda settings: settings.name,
)
def test_all_others_take_one_batch_a_step(settings: SystemConfig, accumulation: int):
    judges, makers = list(settings.least_stages), list(settings.players)
    judged = [player for player in makers if player not in judges]
    order, made = taken(settings, accumulation)
    micros = list(range(accumulation))
    wanted = [(player, n) for player in judges + judged for n in micros]
    assert order == wanted
    assert made == [n for _, n in wanted]
    if accumulation == 1:
        assert taken(settings, 1, shared=True) == (order, [0])
