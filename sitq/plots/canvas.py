"""What all plots share: checks of what they are given, Axes without side effects, colours, labels and legends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import offset_copy

from sitq.errors import InvalidArgument, bad_type
from sitq.notebook.frames import bare, resolve
from sitq.notebook.words import amount, clock, one_line, span
from sitq.plots.axes import plain

# Near Okabe and Ito's colours; each has a line style and a marker of its own too.
GROUP_COLOURS = ("#2b83c6", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c")
GROUP_STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
GROUP_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GROUPS = 6  # drawn apart; the rest is one group
POINTS = 2000  # of a cloud; more hide each other, so that as many are taken at random
STEPS_S = [m * 10.0**e for e in range(-6, 1) for m in (1, 2, 5)] + [10, 15, 30, 60, 120, 300, 600, 900, 1800]
TIMES_S = [*(10.0**e for e in range(-6, 2)), 60, 600, 3600, 36_000, 86_400, 864_000]
STEPS_S += [3600 * hours for hours in (1, 2, 3, 6, 12, 24, 48, 168, 720)]

_apart: ContextVar[bool] = ContextVar("apart", default=False)


class NothingToDraw(InvalidArgument):
    """No task of the frame has yet what the plot shows."""


# ---- what is given ----
def checked(df: Any, ax: Any, *columns: str) -> None:
    """Refuse what is no frame with these columns, and what is no Axes.

    Raises
    ------
    InvalidType, InvalidArgument
        Names ``df`` or ``ax``.
    """
    if not isinstance(df, pd.DataFrame):
        raise bad_type("df", df, "a DataFrame of tasks, as to_frame() gives it")
    missing = [column for column in columns if column not in df.columns]
    if missing:
        raise InvalidArgument(f"df has no column {missing[0]!r}: it is no frame of tasks, as to_frame() gives it")
    if ax is not None and not isinstance(ax, Axes):
        raise bad_type("ax", ax, "an Axes of matplotlib")


def numbers(df: pd.DataFrame, column: str, argument: str = "value") -> pd.Series[Any]:
    """Return a column as floats.

    Raises
    ------
    InvalidArgument
        It holds something else; names the argument and columns that do.
    """
    values = df[column]
    numeric = pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values)
    if not numeric and values.notna().any():
        known = [str(name) for name in df.columns if pd.api.types.is_numeric_dtype(df[name])]
        raise InvalidArgument(
            f"{argument}: column {column!r} holds no numbers. Columns that do: {', '.join(known[:30])}"
        )
    return pd.to_numeric(values, errors="coerce").astype(float)


def valued(df: pd.DataFrame, value: str, plot: str) -> tuple[str, pd.DataFrame, pd.Series[Any]]:
    """Return the column that ``value`` means, the rows where it is a finite number, and these numbers.

    Raises
    ------
    NothingToDraw
        No task has such a number. Before the first one has finished, no result has a column at all.
    InvalidArgument
        No such column, or one that holds no numbers.
    """
    try:
        column = resolve(df, value, "value")
    except InvalidArgument:
        if not (df["status"] == "completed").any():
            raise nothing(plot, "has completed", df) from None
        raise
    found = numbers(df, column)
    finite = np.isfinite(found.to_numpy())
    if not finite.any():
        raise nothing(plot, f"has a {short(column)}", df)
    return column, df[finite], found[finite]


def nothing(plot: str, what: str, df: pd.DataFrame) -> NothingToDraw:
    """Word the error for a frame in which no task is what the plot shows."""
    return NothingToDraw(f"{plot}: none of {amount(len(df), 'task')} {what}, so there is nothing to draw")


def short(column: object, most: int = 40) -> str:
    """Name a column without its prefix."""
    return plain(bare(str(column)), most)


def varies(column: pd.Series[Any]) -> bool:
    """Whether a column takes several values."""
    try:
        return bool(column.nunique() > 1)
    except TypeError:  # lists
        return bool(column.map(repr, na_action="ignore").nunique() > 1)


def thinned(count: int, most: int) -> np.ndarray[Any, Any]:
    """Choose places at random, always the same ones and in order; all where they are few enough."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False))


# ---- where it is drawn ----
def new_figure(width: float, height: float) -> Figure:
    """Open a figure of so many inches: pyplot's, or inside `apart` one that pyplot does not know."""
    if _apart.get():
        return Figure(figsize=(width, height), layout="constrained")
    from matplotlib import pyplot

    return pyplot.figure(figsize=(width, height), layout="constrained")


def new_axes(width: float, height: float) -> Axes:
    """Open a figure with one Axes."""
    axes: Axes = new_figure(width, height).subplots()
    return axes


@contextmanager
def apart() -> Iterator[None]:
    """Keep new figures out of pyplot: what is drawn in the background is never a cell's current figure."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def ink(ax: Axes) -> Any:
    """Return the colour of text on these Axes."""
    return ax.xaxis.label.get_color()


def ground(ax: Axes) -> Any:
    """Return the colour behind what is drawn."""
    return ax.get_facecolor()


def accent(ax: Axes) -> str:
    """Return the colour of what is told apart from nothing, lighter on a dark ground."""
    return GROUP_COLOURS[0] if _is_light(ax) else GROUP_COLOURS[4]


def ramp(ax: Axes) -> ListedColormap:
    """Return colours from low to high, without those that the ground would swallow."""
    from matplotlib import colormaps

    low, high = (0.0, 0.82) if _is_light(ax) else (0.25, 1.0)
    return ListedColormap(colormaps["viridis"](np.linspace(low, high, 256)))


def _is_light(ax: Axes) -> bool:
    return float(np.dot(to_rgb(ground(ax)), (0.299, 0.587, 0.114))) > 0.5


# ---- what stands around it ----
def finish(ax: Axes, grid: Literal["x", "y"] = "y") -> None:
    """Draw a quiet grid behind everything, and no box."""
    ax.grid(True, axis=grid, color="#808080", alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def legend_below(ax: Axes, *, columns: int, **given: Any) -> None:
    """Put the legend under the axis, where it hides nothing."""
    below = offset_copy(ax.transAxes, ax.figure, y=-34, units="points")  # type: ignore[arg-type]  # subfigures as well
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "bbox_transform": below}
    ax.legend(frameon=False, fontsize="small", columnspacing=1.4, handletextpad=0.6, ncols=columns, **place, **given)


def count_axis(axis: Any) -> None:
    """Label an axis of matplotlib that counts."""
    axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def duration_axis(axis: Any) -> None:
    """Label a logarithmic axis of matplotlib at times that people use: 100 ms, 1 s, 10 s, 1:00, 10:00."""
    low, high = axis.get_view_interval()
    few = sum(low <= moment <= high for moment in TIMES_S) < 3
    axis.set_major_locator(FixedLocator(STEPS_S if few else TIMES_S))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: span(value)))


def elapsed_axis(ax: Axes, length: float, begun: pd.Timestamp) -> None:
    """Label the x axis with the time since it began, in seconds."""
    ax.set_xlim(-0.01 * length, 1.01 * length)
    step = next((step for step in STEPS_S if length / step <= 9), length / 8)
    ticks = np.arange(0, length * 1.001, step).tolist()
    ax.set_xticks(ticks, ["0", *(span(tick) if length < 60 else clock(tick) for tick in ticks[1:])])
    ax.set_xlabel(f"since {begun:%Y-%m-%d %H:%M:%S}")


def moment_axis(axis: Any, column: pd.Series[Any]) -> None:
    """Write moments, given as `in_days`, in the time zone that the column has."""
    zone, untyped = column.dt.tz, cast(Any, dates)
    locator = untyped.AutoDateLocator(tz=zone, minticks=3, maxticks=8)
    axis.set_major_locator(locator)
    axis.set_major_formatter(untyped.ConciseDateFormatter(locator, tz=zone))


def in_days(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    """Return moments as matplotlib counts them; NaN where there is none."""
    moments = column if column.dt.tz is None else column.dt.tz_convert("UTC").dt.tz_localize(None)
    found: np.ndarray[Any, Any] = np.asarray(cast(Any, dates).date2num(moments.to_numpy()), dtype=float)
    return found


def in_seconds(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    """Return moments as seconds since the epoch; NaN where there is none."""
    moments = pd.DatetimeIndex(column).tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[us]")
    return np.where(np.isnat(moments), np.nan, moments.astype(np.int64) / 1e6)


# ---- as a picture ----
def drawn_apart(draw: Callable[[], Any]) -> Figure:
    """Draw on a figure that pyplot does not know, and return it.

    Parameters
    ----------
    draw : callable
        Opens a figure with `new_figure`, and returns its Axes or an array of them.

    Raises
    ------
    NothingToDraw
        There is nothing to draw yet.
    """
    with apart():
        drawn = draw()
    figure: Figure = np.ravel(drawn)[0].figure
    return figure


def picture(figure: Figure) -> tuple[bytes, str]:
    """Return a figure as a PNG with its text alternative."""
    from io import BytesIO

    written = BytesIO()
    figure.savefig(written, format="png", bbox_inches="tight")
    return written.getvalue(), told(figure)


def told(figure: Any) -> str:
    """Tell in one line what a figure shows: its titles, and the axes of the first Axes."""
    first: Axes = figure.axes[0]
    titles = [figure.get_suptitle(), first.get_title()]
    labels = [f"{axis}: {label}" for axis, label in (("x", first.get_xlabel()), ("y", first.get_ylabel())) if label]
    return one_line("; ".join([*filter(None, titles), *labels]).replace(r"\$", "$"), 300)
