"""The report of a sweep: report.html, which needs no network, and its figures as PNG."""

import html
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agehpc.files import atomic_path, write_text
from agehpc_tune.finished import Finished
from agehpc_tune.objectives import Objective

if TYPE_CHECKING:
    from optuna import Study

REPORT, FIGURES = "report.html", "figures"
LEAST = 3
"""Scored trials that figures are drawn of."""
_CONTOURS = 3  # parameters that are shown in pairs, the most important ones
_TREES_SEED = 0

# Name, optuna's function, and what the figure says.
_PLOTS = (
    (
        "regret",
        "plot_optimization_history",
        "The value of each trial, and the best so far: how far the line is from its end is what "
        "was still to be gained.",
    ),
    (
        "importances",
        "plot_param_importances",
        "Share of the value's variance that goes with each key (fANOVA). Keys with a condition, "
        "which some trials lack, are left out. Of few trials it says little.",
    ),
    ("slices", "plot_slice", "The value over each key by itself; later trials are darker."),
    (
        "contour",
        "plot_contour",
        "The value over pairs of the most important keys, interpolated between the trials.",
    ),
    ("parallel", "plot_parallel_coordinate", "A line a trial through its values of all keys."),
)
_PARETO = "Trials by all objectives; those of the front are beaten by none in all of them."

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 75rem; padding: 0 1rem }}
table {{ border-collapse: collapse; font-size: 13px }}
td, th {{ border-bottom: 1px solid #ddd; padding: .2rem .7rem; text-align: right }}
th {{ position: sticky; top: 0; background: #fff }}
.figure {{ overflow-x: auto }}
.scroll {{ max-height: 32rem; overflow: auto }}
.best td {{ font-weight: bold; background: #eef6ee }}
p {{ color: #444 }}
</style>
<script>{plotly}</script></head><body>
{body}
</body></html>
"""


def write_report(sweep: Path) -> Path:
    """Write SWEEP/report.html and SWEEP/figures/*.png from its trials, and return the page.

    RunError where SWEEP holds no sweep.
    """
    found = Finished.read(sweep)
    parts = [_summary(found)]
    scripts = ""
    if len(found.scored) < LEAST:
        parts.append(f"<p>Figures need {LEAST} trials that were trained to the end.</p>")
    else:
        from plotly.offline import get_plotlyjs

        scripts = get_plotlyjs()
        (sweep / FIGURES).mkdir(exist_ok=True)
        with _drawing():
            parts += [_figures(found, one, sweep / FIGURES) for one in found.objectives]
            if len(found.objectives) in (2, 3):
                parts.insert(1, _pareto(found, sweep / FIGURES))
    parts.append(_table(found))
    title = html.escape(f"Sweep {sweep.resolve().name}")
    body = f"<h1>{title}</h1>\n" + "\n".join(parts)
    write_text(sweep / REPORT, _PAGE.format(title=title, plotly=scripts, body=body))
    return sweep / REPORT


@contextmanager
def _drawing() -> Iterator[None]:
    """Draw without a screen, leaving no style behind."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt
    from optuna.exceptions import ExperimentalWarning

    mpl.use("agg")
    with plt.style.context("default"), warnings.catch_warnings():
        # Every plot of optuna's by matplotlib is called experimental.
        warnings.simplefilter("ignore", ExperimentalWarning)
        # All trials may have one value of a key: the axis is widened.
        warnings.filterwarnings("ignore", "Attempting to set identical", UserWarning)
        yield
        plt.close("all")


def _figures(found: Finished, objective: Objective, folder: Path) -> str:
    """Draw all figures of an objective, and return them as a part of the page."""
    study = found.study(objective)
    ranked = _ranked(study)
    parts = [f"<h2>{html.escape(objective.name)}, {objective.mode}imised</h2>"]
    for name, function, text in _PLOTS:
        given: dict[str, Any] = {"target_name": objective.name}
        if name == "importances":
            if not ranked:
                continue
            given["evaluator"] = _fanova()
        elif name == "contour":
            if len(ranked) < 2:
                continue
            given["params"] = ranked[:_CONTOURS]
        file = folder / f"{name}-{objective.name}.png"
        size = _size(name, len(found.space.keys))
        parts.append(_figure(function, study, given, file, text, size))
    return "\n".join(parts)


def _size(name: str, keys: int) -> tuple[float, float] | None:
    """Return inches in which the labels of many axes do not meet, or None for optuna's own."""
    if name == "contour" and keys >= _CONTOURS:
        return 4.5 * _CONTOURS, 3.6 * _CONTOURS
    return (2.2 * (keys + 2), 6.0) if name == "parallel" else None


def _pareto(found: Finished, folder: Path) -> str:
    study = found.study(*found.objectives)
    given = {"target_names": [one.name for one in found.objectives]}
    shown = _figure("plot_pareto_front", study, given, folder / "pareto.png", _PARETO)
    return f"<h2>Pareto front</h2>\n{shown}"


def _ranked(study: "Study") -> list[str]:
    """Return keys by falling importance; none where every trial has the same value."""
    import optuna

    values = {trial.values[0] for trial in study.get_trials() if trial.values}
    if len(values) < 2:
        return []
    return list(optuna.importance.get_param_importances(study, evaluator=_fanova()))


def _fanova() -> Any:
    from optuna.importance import FanovaImportanceEvaluator

    return FanovaImportanceEvaluator(seed=_TREES_SEED)


def _figure(
    function: str,
    study: "Study",
    given: Mapping[str, Any],
    file: Path,
    text: str,
    size: tuple[float, float] | None = None,
) -> str:
    """Draw a figure as PNG, and return it as a part of the page that answers the mouse."""
    import optuna.visualization as interactive
    import optuna.visualization.matplotlib as still
    from matplotlib import pyplot as plt

    draw: Callable[..., Any] = getattr(still, function)
    draw(study, **given)
    if size:
        plt.gcf().set_size_inches(size)
    with atomic_path(file) as path:
        plt.gcf().savefig(path, dpi=120, bbox_inches="tight")
    plt.close("all")
    page = getattr(interactive, function)(study, **given)
    shown = page.to_html(full_html=False, include_plotlyjs=False)
    return f'<p>{html.escape(text)}</p>\n<div class="figure">{shown}</div>'


def _summary(found: Finished) -> str:
    states = [row["state"] for row in found.rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    lines = [f"<p>{len(states)} trials ({counts}) by {found.settings.get('search', '')}.</p>"]
    for objective in found.objectives:
        if best := found.best(objective):
            values = ", ".join(f"{key} {best[key]}" for key in found.space.keys if best[key])
            lines.append(
                f"<p>Best {html.escape(objective.name)}: <b>{float(best[objective.name]):.6g}</b>, "
                f"trial {best['number']}: {html.escape(values)}</p>"
            )
    return "\n".join(lines)


def _table(found: Finished) -> str:
    if not found.rows:
        return ""
    best = {row["number"] for one in found.objectives if (row := found.best(one))}
    names = found.names
    head = "".join(f"<th>{html.escape(names.get(key, key))}</th>" for key in found.rows[0])
    body = ""
    for row in found.rows:
        cells = "".join(f"<td>{html.escape(_short(text))}</td>" for text in row.values())
        body += f"<tr{' class=best' if row['number'] in best else ''}>{cells}</tr>\n"
    return (
        f"<h2>Trials</h2>\n<div class=scroll><table><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>"
    )


def _short(text: str) -> str:
    try:
        return f"{float(text):.5g}"
    except ValueError:
        return text
