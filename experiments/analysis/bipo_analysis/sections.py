"""A sweep cut into sections: the cells of one model and data set, whose layers can be compared."""

from __future__ import annotations

from dataclasses import dataclass

import pandas

from .layer_curve import evaluated, layer_curve, ranked_layers, with_swings
from .summary import OBJECTIVE_AXES, SETTING_AXES, joint_layers
from .sweep import Sweep

# Axes that make a variant: layers are compared with all of these equal.
VARIANT_AXES = ("lr", "beta", *OBJECTIVE_AXES, "sign", "batch_size", "epochs", *SETTING_AXES)


@dataclass(frozen=True, eq=False)
class Variant:
    """Cells that differ in layer and seed only; `values` holds the variant axes that vary in the section."""

    values: dict[str, object]
    cells: pandas.DataFrame
    # Those that count: complete ones with an evaluation; where none is complete, all with an evaluation.
    compared: pandas.DataFrame
    curve: pandas.DataFrame

    @property
    def is_preliminary(self) -> bool:
        """Whether what is compared is the state of runs that are not complete."""
        return not (self.compared["status"] == "complete").all()

    @property
    def joint_layers(self) -> str:
        """The layers that its cells train jointly, "0+2"; "" where they train one each."""
        return joint_layers(self.cells)

    def layer_words(self, layer: object) -> str:
        """A layer of the curve: "layer 5", or "layers 0+2" of cells that train these jointly."""
        return f"layers {self.joint_layers}" if self.joint_layers else f"layer {layer}"

    @property
    def best_swing(self) -> tuple[float, float]:
        """Accuracy's and margin's swing of the best layer; below any other where nothing was evaluated."""
        if self.curve.empty:
            return (-2.0, 0.0)
        best = ranked_layers(self.curve, "accuracy").iloc[0]
        return (float(best["accuracy_swing"]), float(best["margin_swing"]))


@dataclass(frozen=True, eq=False)
class Section:
    """The cells of one model and data set, and their variants, that with the largest swing first."""

    model: str
    data: str
    cells: pandas.DataFrame
    variants: list[Variant]

    @property
    def best(self) -> Variant:
        return self.variants[0]

    @property
    def title(self) -> str:
        return ", ".join(text for text in (self.model, self.data) if text) or "All cells"


def split_sections(sweep: Sweep) -> list[Section]:
    """The sections in the order of the plan; none for a plan without cells."""
    groups = sweep.summary.groupby(["model", "data"], sort=False, dropna=False)
    return [Section(str(model), str(data), cells, _variants(cells)) for (model, data), cells in groups]


def _variants(cells: pandas.DataFrame) -> list[Variant]:
    varying = [axis for axis in VARIANT_AXES if axis in cells and cells[axis].nunique(dropna=False) > 1]
    if not varying:
        return [_variant({}, cells)]
    groups = cells.groupby(varying, sort=True, dropna=False)
    variants = [_variant(dict(zip(varying, values, strict=True)), group) for values, group in groups]
    return sorted(variants, key=lambda variant: variant.best_swing, reverse=True)


def _variant(values: dict[str, object], cells: pandas.DataFrame) -> Variant:
    compared = evaluated(cells)
    complete = compared[compared["status"] == "complete"]
    compared = compared if complete.empty else complete
    return Variant(values, cells, compared, layer_curve(compared))


def best_cells(cells: pandas.DataFrame, most: int) -> pandas.DataFrame:
    """The `most` evaluated cells with the largest swing of accuracy, then of margin, at their last evaluation."""
    ranked = with_swings(evaluated(cells)).sort_values(["accuracy_swing", "margin_swing", "cell"],
                                                       ascending=[False, False, True])
    return ranked.head(most)
