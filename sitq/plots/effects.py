"""A value against each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from sitq.errors import InvalidArgument, bad_type
from sitq.notebook.frames import COLUMNS, resolve
from sitq.notebook.words import amount
from sitq.plots.canvas import POINTS, accent, checked, finish, ink, new_figure, short, thinned, valued, varies
from sitq.plots.scales import Scale, ShortNumbers

PANELS = 12  # parameters of one picture, unless more are named
ACROSS = 3  # panels side by side
BOXED = 10  # tasks; fewer are drawn as points alone


def effect(
    df: pd.DataFrame,
    value: str,
    params: str | Sequence[str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> Any:
    """Draw a value against each parameter, side by side.

    Numbers get points and the line of their means, other values points and boxes (quartiles, whiskers from the 5th to
    the 95th percentile). Of more than 2,000 tasks as many points are drawn, taken at random, and the 10th and 90th
    percentiles of all.

    Parameters
    ----------
    df : pandas.DataFrame
        As ``to_frame()`` gives it.
    value : str
        Column with or without its prefix: ``"accuracy"`` is ``result.accuracy``.
    params : str or list of str, optional
        Columns with or without their prefix; by default the parameters that take several values, twelve at most.
    ax : matplotlib.axes.Axes or as many of them as there are parameters, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes or numpy.ndarray of them
        One for each parameter; the Axes itself where there is one.

    Raises
    ------
    InvalidArgument
        No such column, a value that is no number, nothing has finished, or no parameter takes several values.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> frame = pd.DataFrame({"param.C": [1, 10, 100], "result": [0.5, 0.9, 0.7], "status": "completed"})
    >>> effect(frame, "result").get_xscale()
    'log'
    """
    given = _given(ax)
    checked(df, None, "status")
    named = None if params is None else named_params(df, params)
    column, used, values = valued(df, value, "effect")
    shown, note = chosen_params(used, column, named, "effect")
    if given is not None and len(given) != len(shown):
        raise InvalidArgument(f"ax: {amount(len(shown), 'parameter')} to draw, and {len(given)} Axes")
    numbers = values.to_numpy()
    many = len(numbers) > POINTS
    scales = [Scale.of(used[name]) for name in shown]
    panels = given or _panels(len(shown), short(column), any(_turn(scale) == 90 for scale in scales))
    for panel, name, scale in zip(panels, shown, scales, strict=True):
        _draw(panel, scale, numbers, many)
        panel.set_xlabel(short(name))
    if given is not None or len(panels) == 1:
        panels[0].set_ylabel(short(column))
    title = f"{short(column)} of {amount(len(used), 'task')}{note}"
    if len(panels) == 1:
        panels[0].set_title(title)
    elif given is None:
        panels[0].figure.suptitle(title, fontsize="large")
    if given is None:
        handles = _handles(panels[0], many, any(panel.lines for panel in panels))
        panels[0].figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    return panels[0] if len(panels) == 1 else np.array(panels, dtype=object)


def named_params(df: pd.DataFrame, params: str | Sequence[str]) -> list[str]:
    """Find the columns that a user names.

    Raises
    ------
    InvalidType, InvalidArgument
        Not names, none, or no such column.
    """
    if not isinstance(params, str) and not (isinstance(params, Sequence) and all(isinstance(p, str) for p in params)):
        raise bad_type("params", params, "the name of a parameter or a list of names")
    names = [resolve(df, name, "params") for name in ([params] if isinstance(params, str) else params)]
    if not names:
        raise InvalidArgument("params is empty: name parameters, or leave it out for those that take several values")
    return names


def chosen_params(used: pd.DataFrame, value: str, named: list[str] | None, plot: str) -> tuple[list[str], str]:
    """Choose the named parameters, or those that take several values; say how many of these were left out.

    Raises
    ------
    InvalidArgument
        There is none, or no task has a named one.
    """
    if named is not None:
        missing = [name for name in named if not used[name].notna().any()]
        if missing:
            raise InvalidArgument(f"params: none of {amount(len(used), 'task')} with a value has a {short(missing[0])}")
        return named, ""
    known = [name for name in used.columns if str(name).startswith("param.") and name != value]
    if not known:
        fixed = [name for name in used.columns if name not in COLUMNS and name != value]
        listed = f": one or more of {', '.join(map(str, fixed[:30]))}" if fixed else ""
        raise InvalidArgument(f"{plot}: no column of the frame begins with 'param.'; name params{listed}")
    found = [name for name in known if varies(used[name])]
    if not found:
        raise InvalidArgument(f"{plot}: no parameter of {amount(len(used), 'task')} takes two values; name params")
    more = len(found) - PANELS
    return found[:PANELS], f" ({PANELS} of {len(found)} parameters)" if more > 0 else ""


def _given(ax: Any) -> list[Axes] | None:
    if ax is None:
        return None
    given = list(np.ravel(np.asarray(ax, dtype=object)))
    wrong = next((one for one in given if not isinstance(one, Axes)), None)
    if wrong is not None or not given:
        raise bad_type("ax", ax, "an Axes of matplotlib, or as many as there are parameters")
    return given


def _panels(count: int, called: str, tall: bool) -> list[Axes]:
    across = 2 if count == 4 else min(count, ACROSS)
    down = -(-count // across)
    figure = new_figure(max(5.0, 3.3 * across), max(3.4, (3.4 if tall else 2.6) * down + 0.6))
    grid = figure.subplots(down, across, sharey=True, squeeze=False)
    for row in grid:
        row[0].set_ylabel(called)
    panels = list(grid.ravel())
    for panel in panels[count:]:
        panel.remove()
    return panels[:count]


def _draw(ax: Axes, scale: Scale, values: np.ndarray[Any, Any], many: bool) -> None:
    codes = scale.groups()
    points = thinned(len(values), POINTS)
    shift = _shift(scale, codes)[points]
    across = scale.even[points] + shift
    size, alpha = (10.0, 0.5) if len(points) > 300 else (22.0, 0.8)
    across = 10**across if scale.kind == "log" else across
    ax.scatter(across, values[points], size, color=accent(ax), alpha=alpha, linewidths=0, zorder=2, rasterized=many)
    groups = [(scale.even[codes == code], values[codes == code]) for code in range(codes.max() + 1)]
    groups = [(places, found) for places, found in groups if len(found)]
    if scale.kind == "categories":
        _draw_boxes(ax, groups)
    elif groups:
        at = np.array([places.mean() for places, _ in groups])
        at = 10**at if scale.kind == "log" else at
        ax.plot(at, [found.mean() for _, found in groups], color=ink(ax), marker="o", markersize=4, zorder=4)
        if many:
            for edge in np.array([np.quantile(found, [0.1, 0.9]) for _, found in groups]).T:
                ax.plot(at, edge, color=ink(ax), linewidth=1.0, linestyle="--", zorder=4)
    ax.margins(x=0.08)
    if scale.kind == "log":
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(numticks=6))
        ax.xaxis.set_major_formatter(ShortNumbers())
    elif not len(scale.ticks):
        ax.xaxis.set_major_locator(MaxNLocator(6))
    if len(scale.ticks):
        turned = _turn(scale)
        ax.set_xticks(scale.ticks, scale.labels, rotation=turned, ha="right" if turned == 30 else "center")
        ax.xaxis.set_minor_formatter(NullFormatter())
    if scale.kind in ("categories", "ordinal"):
        ax.set_xlim(-0.6, len(scale.ticks) - 0.4)
    finish(ax)


def _turn(scale: Scale) -> int:
    """Choose how far labels are turned, in degrees, so that they do not touch."""
    return 0 if sum(map(len, scale.labels)) <= 28 else 30 if len(scale.labels) <= 5 else 90


def _draw_boxes(ax: Axes, groups: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]) -> None:
    for places, found in groups:
        at = float(places[0])
        ax.plot([at], [found.mean()], color=ink(ax), marker="D", markersize=5, linestyle="", zorder=5)
        if len(found) >= BOXED:
            low, lower, middle, upper, high = np.quantile(found, [0.05, 0.25, 0.5, 0.75, 0.95])
            drawn = {"med": middle, "q1": lower, "q3": upper, "whislo": low, "whishi": high, "fliers": []}
            line = {"color": ink(ax), "linewidth": 1.2, "zorder": 4}
            parts: dict[str, Any] = {f"{part}props": line for part in ("box", "whisker", "cap", "median")}
            ax.bxp([drawn], [at], widths=0.6, showfliers=False, manage_ticks=False, **parts)


def _shift(scale: Scale, codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Spread tasks that stand in one place, where there are so many of them that they would hide each other."""
    places = np.unique(scale.even[~np.isnan(scale.even)])
    crowded = scale.kind == "categories" or len(codes) > 20 * len(places)
    if len(places) < 2 or len(places) > codes.max() + 1 or not crowded:
        return np.zeros(len(codes)) if scale.kind != "categories" else _noise(len(codes), 0.2)
    return _noise(len(codes), 0.2 * float(np.diff(places).min()))


def _noise(count: int, width: float) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).uniform(-width, width, count)


def _handles(ax: Axes, many: bool, means: bool) -> list[Any]:
    tasks = f"{POINTS:,} of the tasks" if many else "a task"
    handles: list[Any] = [Line2D([], [], color=accent(ax), marker="o", markersize=4, linestyle="", label=tasks)]
    if means:
        handles.append(Line2D([], [], color=ink(ax), marker="o", markersize=4, label="mean"))
    if many:
        handles.append(Line2D([], [], color=ink(ax), linewidth=1.0, linestyle="--", label="10 % and 90 %"))
    return handles
