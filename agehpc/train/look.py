"""A look at the averaged model, on rank 0: pictures, figures, and whether it is the best so far.

Nothing in it is collective.
"""

from collections.abc import Callable, Sequence

from agehpc.best import Best
from agehpc.config.schema import Config
from agehpc.errors import ConfigError
from agehpc.evaluate.measure import Figure
from agehpc.evaluate.protocols import figures as figures_of
from agehpc.observe.console import Console
from agehpc.train.progress import Progress
from agehpc.train.recorder import Recorder
from agehpc.train.snapshot import Snapshot


def check_best(config: Config, snapshot: Snapshot) -> None:
    """Raise ConfigError where no evaluation gives the figure that the best is chosen by."""
    chosen, given = config.evaluate.best, snapshot.figures()
    given |= {name for metric in config.evaluate.metrics for name in figures_of(metric)}
    if chosen is not None and chosen not in given:
        raise ConfigError(
            f"--evaluate.best {chosen}: the evaluations of this run give "
            f"{', '.join(sorted(given)) or 'nothing'}; use one of these, or none"
        )


def look(
    config: Config,
    snapshot: Snapshot,
    recorder: Recorder,
    console: Console,
    progress: Progress,
    best: Best | None,
    scores: Sequence[Figure],
    check: Callable[[], None],
    *,
    rendering: bool,
    measuring: bool,
) -> tuple[Best | None, float | None]:
    """Render and measure the snapshot as it is; figures are written once all are known.

    Args:
        config: the run's.
        snapshot: refreshed.
        recorder: takes pictures and figures.
        console: speaks.
        progress: the counters.
        best: the best so far.
        scores: figures of generated samples, measured by all ranks.
        check: called at every batch; it raises where the look is to be cut short.
        rendering: whether pictures are due.
        measuring: whether figures are due.

    Returns:
        This step's figure by which the best checkpoint is chosen, where that is the best so far,
        and the diversity of the samples, where the guard wants to know.
    """
    check()
    if rendering:
        paths = snapshot.render(recorder.sample_stem(progress))
        recorder.pictures(progress, paths)
    figures = []
    diversity = None
    if config.train.guard.diversity is not None:
        diversity, count = snapshot.diversity()
        if diversity is not None:
            figures.append(("diversity", diversity, count, "train"))
    if measuring:
        values, count = snapshot.measure(check)
        split = snapshot.split
        figures += [(name, value, count, split) for name, value in values.items()]
        told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if told:
            console.say(f"{split}: {told} over {count} samples")
    if scores:
        told = ", ".join(f"{score.name} {score.value:.4g}" for score in scores)
        console.say(f"generated: {told} over {scores[0].n_fake} samples")
    about = {score.name: score.columns for score in scores}
    figures += [(score.name, score.value, score.n_fake, "train") for score in scores]
    better = best
    for name, value, count, split in figures:
        recorder.evaluation(progress, name, value, count, split, about.get(name, {}))
        found = Best(name, value, progress.step, progress.kimg)
        if name == config.evaluate.best and found.beats(better):
            better = found
    return None if better == best else better, diversity
