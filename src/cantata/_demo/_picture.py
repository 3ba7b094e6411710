"""The story of the demo in one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cantata import pl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from mudata import MuData

    from cantata._demo._scores import Score

MODEL_COLOR, SIMPLE_COLOR, CHANCE_COLOR = "#2f6b9a", "#b9c6d2", "#c44e52"

CURVES = ("objective", "foscttm", "alignment", "discriminator")
"""Terms of the history that are drawn, as far as they exist."""


def picture(
    path: Path,
    mdata: MuData,
    history: Mapping[str, Any],
    scores: Sequence[Score],
    *,
    title: str,
    batch_key: str | None,
    colors: Sequence[str],
    kept_epoch: int | None,
) -> None:
    """Draw pairing, embedding, training curves and scores, and save them as a PNG.

    Parameters
    ----------
    path
        File to write.
    mdata
        All cells, with a UMAP.
    history
        History of the model.
    scores
        Scores, in the order in which they are drawn.
    title
        Title of the picture.
    batch_key
        Column that colours the bars of the pairing patterns.
    colors
        Annotations that colour the UMAP, one panel each.
    kept_epoch
        Epoch whose weights were kept.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lower = max(4.4, 1.2 + 0.42 * len(scores))
    size = (4.6 * (1 + len(colors)), 4.6 + lower)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=size, layout=layout, dpi=130)
    figure.suptitle(title, fontsize=17, fontweight="bold")
    above, below = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=[4.2, lower])))
    panels = above.subplots(1, 1 + len(colors))
    pl.pairing(mdata, batch_key=batch_key, ax=panels[0])
    panels[0].set_title("what was measured")
    pl.embedding(mdata, "X_umap", color=list(colors), axes=list(panels[1:]))
    for ax, color in zip(panels[1:], colors, strict=True):
        ax.set_title(f"UMAP of X_clue by {color}")
    left, right = np.ravel(below.subfigures(1, 2, width_ratios=[1, 1.15]))
    _draw_curves(left, history, kept_epoch)
    draw_scores(right.subplots(), scores)
    figure.savefig(path)


def _draw_curves(figure: Any, history: Mapping[str, Any], kept_epoch: int | None) -> None:
    """Training curves; a line marks the epoch that was kept."""
    terms = [term for term in CURVES if any(name.startswith(f"{term}_") for name in history)]
    axes = figure.subplots(-(-len(terms) // 2), 2, squeeze=False).ravel()
    for unused in axes[len(terms) :]:
        unused.remove()
    for ax in pl.history(history, terms, axes=list(axes[: len(terms)])):
        if kept_epoch is not None:
            ax.axvline(kept_epoch, color="0.6", lw=1, ls=":", zorder=0)
            ax.annotate(
                "kept",
                (kept_epoch, 1),
                (3, -2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                va="top",
                fontsize="small",
                color="0.4",
            )


def draw_scores(ax: Axes, scores: Sequence[Score]) -> None:
    """Bars of the model and of the simple method, with a mark at chance."""
    if not scores:
        ax.text(0.5, 0.5, "too few cells to score", ha="center", va="center")
        ax.set_axis_off()
        return
    y = np.arange(len(scores), dtype=float)[::-1]
    methods = "/".join(dict.fromkeys(score.method for score in scores))
    for shift, label, color, values in (
        (0.2, "CLUE", MODEL_COLOR, [score.model for score in scores]),
        (-0.2, methods, SIMPLE_COLOR, [score.simple for score in scores]),
    ):
        ax.barh(y + shift, values, height=0.36, color=color, label=label)
        for place, value in zip(y + shift, values, strict=True):
            ax.annotate(
                f"{value:.3f}",
                (max(value, 0), place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
            )
    chance = [score.chance for score in scores]
    ax.vlines(chance, y - 0.42, y + 0.42, colors=CHANCE_COLOR, lw=2, label="chance")
    names = [
        f"{score.name}{'' if score.higher_is_better else ' (lower is better)'}\n{score.section}"
        for score in scores
    ]
    ax.set_yticks(y, names, fontsize="small")
    lowest = min([0.0, *(min(score.model, score.simple) for score in scores)])
    ax.set(xlim=(lowest, 1.08), ylim=(-0.6, len(scores) - 0.4), title="scores")
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3, frameon=False)
