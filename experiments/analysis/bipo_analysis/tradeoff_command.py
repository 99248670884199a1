"""The command `tradeoffs`: effect against cost of all cells of sweeps, as CSV, Markdown and pictures."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas

from .cells import BASE, LeftOut, Panel, left_out, load_cells, panels, passed_over
from .effects import (AT, AT_ITS_KL, AT_REFERENCE_KL, COMPARED, EFFECTS, PRICES, Settings, cell_table, choice_table,
                      difference_table, left_out_multipliers, settings_of)
from .errors import AnalysisError
from .evaluation import VECTOR, of_direction
from .resampling import RESAMPLES, few_seeds_words
from .tradeoff_figures import write_tradeoff_figures
from .wording import counted, joined, multiplier, number, percent, plain, signed

SHORT = {"steerability": "steerability", "accuracy_swing": "accuracy swing", "swing_at_equal_kl": "swing at equal KL",
         AT_ITS_KL: "swing at its KL", AT_REFERENCE_KL: "swing at the reference's KL",
         "kl": "KL", "perplexity": "perplexity of answers", "repetition": "repetition",
         "text_perplexity": "perplexity of the text"}
SHARES = ("accuracy_swing", "repetition")
# Names that a line on the terminal has room for; the page has all.
MOST_NAMED = 12
# A corrected p below this counts as more than chance.
LEVEL = 0.05


def add_tradeoff_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its options."""
    command = commands.add_parser("tradeoffs", help="effect against cost of the cells of sweeps: CSV, Markdown, PNG "
                                                    "and SVG")
    command.add_argument("paths", type=Path, nargs="+", metavar="SWEEP|FILE|DIR",
                         help="sweeps, run files and the evaluations of their vectors, or folders that hold them")
    command.add_argument("--out", type=Path, default=Path("tradeoffs"), metavar="DIR",
                         help="folder to write to (default: %(default)s)")
    command.add_argument("--at", type=float, default=AT, metavar="M",
                         help="costs and accuracies are those at the multipliers M and -M (default: %(default)g)")
    command.add_argument("--equal-kl", type=float, metavar="NATS",
                         help="KL on neutral prompts at which choices are compared at equal cost (default: for each "
                              "model and data set the largest that all cells reach, weak ones left out)")


def run_tradeoff_command(options: argparse.Namespace) -> tuple[str, list[str]]:
    """Writes the files; returns the line to print, and what was left out of the comparison, with the reasons.

    Raises AnalysisError for bad input, OSError where a file cannot be written.
    """
    for name, value in (("--at", options.at), ("--equal-kl", options.equal_kl)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise AnalysisError(f"{name} must be a number above 0, not {value:g}")
    loaded = load_cells(options.paths)
    # Of models and data sets without an evaluation there is nothing to show.
    found = [panel for panel in panels(loaded) if _evaluated(panel)]
    omitted = [*left_out(loaded, found), *passed_over(options.paths, loaded)]
    cells = cell_table(found, options.at, options.equal_kl)
    evaluated = sum(map(_evaluated, found))
    if evaluated == 0:
        raise AnalysisError("none of these cells was evaluated; name the files of `bipo-dist evaluate --vector` on "
                            "their run files, too")
    unmeasured = unmeasured_words(found, options.at)
    choices = choice_table(found, options.at, options.equal_kl)
    differences = difference_table(found, options.at, options.equal_kl)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, table in (("cells", cells), ("choices", choices), ("differences", differences)):
        table.to_csv(options.out / f"{name}.csv", index=False, float_format="%.6g")
    pictures = write_tradeoff_figures(found, choices, cells, options.at, options.out)
    text = tradeoff_markdown(found, choices, differences, options.at, options.equal_kl,
                             [path.name for path in pictures if path.suffix == ".png"], omitted)
    (options.out / "tradeoffs.md").write_text(text, encoding="utf-8")
    line = (f"{options.out}: {counted(len(cells), 'cell')}, {evaluated} evaluated, {counted(len(choices), 'choice')}, "
            f"{counted(len(pictures), 'picture')}")
    warnings = [*unmeasured, *left_out_words(omitted, MOST_NAMED)]
    return (f"{line}, {len(omitted)} left out" if omitted else line), warnings


def unmeasured_words(found: Sequence[Panel], at: float) -> list[str]:
    """A sentence where no evaluation has the multipliers at which costs and accuracies are to be compared."""
    measured = [set(of_direction(cell.evaluation.curve, VECTOR)["multiplier"]) for panel in found
                for choice in panel.choices for cell in choice.cells if cell.evaluation is not None]
    if not any(measured) or any({at, -at} <= own for own in measured):
        return []
    known = sorted({float(value) for own in measured for value in own if value > 0 and -value in own})
    takes = f"--at takes one of {', '.join(f'{value:g}' for value in known)}" if known else \
        "none has others on both sides either"
    return [f"no evaluation has {multiplier(at)} and {multiplier(-at)}, so that costs and swings of accuracy are not "
            f"known; {takes}"]


def left_out_words(omitted: Sequence[LeftOut], most: int | None = None) -> list[str]:
    """What was left out, a sentence for each reason, with at most `most` names in each."""
    by_reason: dict[str, list[str]] = {}
    for one in omitted:
        by_reason.setdefault(one.reason, []).append(one.name)
    return [f"left out, {reason}: {', '.join(names[:most])}"
            + (f" and {len(names) - most} more" if most is not None and len(names) > most else "")
            for reason, names in by_reason.items()]


def _evaluated(panel: Panel) -> int:
    return sum(cell.evaluation is not None for choice in panel.choices for cell in choice.cells)


def tradeoff_markdown(found: Sequence[Panel], choices: pandas.DataFrame, differences: pandas.DataFrame, at: float,
                      equal_kl: float | None = None, pictures: Sequence[str] = (),
                      omitted: Sequence[LeftOut] = ()) -> str:
    """The tables of choices and of differences, each with what its figures are, and what they leave out."""
    sides = f"{multiplier(at)} and {multiplier(-at)}"
    parts = ["# Effect against cost", "",
             "Steerability is the mean slope of the propensity of single pairs, in nats per unit of the multiplier. "
             f"Accuracy swing is the held-out accuracy at {multiplier(at)} less that at {multiplier(-at)}, in points. "
             "Swing at equal KL is the propensity, in nats, between the multipliers on both sides at which the KL on "
             "neutral prompts is the same for all choices; it is missing where a choice does not reach that KL. Costs "
             f"are means of {sides}; repetition is the share of word pairs that are repeated.", ""]
    parts += [line for name in pictures for line in (f"![{name.removesuffix('.png')}]({name})", "")]
    for panel in found:
        own, settings = _of(choices, panel), settings_of(panel, at, equal_kl)
        parts += [f"## {panel.title}", "", *_base_words(panel), *_choice_lines(own, settings.equal_kl), ""]
        parts += [f"{sentence}\n" for sentence in (unequal_words(panel, settings),) if sentence]
        parts += [_bounds_words(own), ""]
        compared = _of(differences, panel)
        if compared["difference"].notna().any():
            parts += [*_difference_lines(compared), ""]
    if omitted:
        parts += ["## Left out", "",
                  *(f"- {sentence[0].upper()}{sentence[1:]}" for sentence in left_out_words(omitted)), ""]
    count = {effect: int(differences.loc[differences["measure"] == effect, "p"].notna().sum()) for effect in COMPARED}
    counts = joined([f"{SHORT[effect]}: {number_of}" for effect, number_of in count.items()])
    parts += [f"Intervals and p of effects: paired bootstrap over pairs and seeds, {RESAMPLES} resamples. p is "
              f"corrected by Holm's method for all comparisons of an effect on this page ({counts}). Swing at its KL: "
              f"propensity at {multiplier(at)} less that at {multiplier(-at)} of the choice, less the reference's "
              "swing between the multipliers with the same KL, where the reference is interpolated. Swing at the "
              "reference's KL: the same with the choice interpolated. A line understates a curve that flattens, so that only what "
              "both say is no matter of interpolation. Of costs the file holds no single items: the bounds of a "
              "difference are those of its seeds, and it is not tested.", ""]
    return "\n".join(parts)


def unequal_words(panel: Panel, settings: Settings) -> str:
    """Which multipliers are left out because not all evaluations of a panel have them; empty where none are."""
    left_out = left_out_multipliers(panel, settings)
    if not left_out:
        return ""
    return (f"Only some evaluations have {joined([multiplier(value) for value in left_out])}: effects are over "
            f"{joined([multiplier(value) for value in settings.multipliers])}, which all have.")


def _of(table: pandas.DataFrame, panel: Panel) -> pandas.DataFrame:
    return table[(table["model"] == panel.model) & (table["data"] == panel.data)]


def _base_words(panel: Panel) -> list[str]:
    if not panel.base:
        return []
    values = ", ".join(f"{name.replace('_', ' ')} {plain(value)}" for name, value in panel.base.items())
    return [f"`{BASE}`: {values}. The others are named after what they change.", ""]


def _choice_lines(rows: pandas.DataFrame, equal_kl: float) -> list[str]:
    effects = [name for name in EFFECTS if rows[name].notna().any()]
    prices = [name for name in PRICES if rows[name].notna().any()]
    lines = _row(["choice", "seeds", "norm", *(SHORT[name] for name in (*effects, *prices))])
    lines += _row(["---"] * (3 + len(effects) + len(prices)))
    for row in rows.to_dict("records"):
        cells = [_with_bounds(row, name) for name in (*effects, *prices)]
        fronts = [price for price in prices if row[f"on_front_{price}"]]
        mark = "" if not fronts else " *"
        lines += _row([f"{row['choice']}{mark}", str(row["seeds"]), number(row["vector_norm"]), *cells])
    if prices:
        unsteered = (_form(name, float(rows[f"{name}_unsteered"].mean())) for name in prices)
        shown = {"accuracy_swing": f"accuracy {percent(float(rows['accuracy_unsteered'].mean()))}"}
        lines += _row(["unsteered", "", "", *(shown.get(name, "") for name in effects), *unsteered])
    at_kl = "" if math.isnan(equal_kl) else f" The swing at equal KL is that at {number(equal_kl, 3)} nats per token."
    return [*lines, "", f"\\* No choice has more steerability for no more of at least one of the costs.{at_kl}"]


def _difference_lines(rows: pandas.DataFrame) -> list[str]:
    against = rows["against"].iloc[0]
    lines = _row([f"less {against}", "measure", "difference", "bounds", "seed by seed", "p, Holm", ""])
    lines += _row(["---"] * 7)
    for row in rows[rows["difference"].notna()].to_dict("records"):
        measure = str(row["measure"])
        by_seed = [float(value) for value in str(row["by_seed"]).split()]
        lines += _row([row["choice"], SHORT[measure], _signed(measure, row["difference"]),
                       "" if math.isnan(row["low"]) else
                       f"{_signed(measure, row['low'])} to {_signed(measure, row['high'])}",
                       ", ".join(_signed(measure, value) for value in by_seed) if len(by_seed) > 1 else "",
                       _probability(row["p_holm"]), _verdict(row, by_seed)])
    return lines


def _verdict(row: dict[str, object], by_seed: Sequence[float]) -> str:
    """What may be said of an effect's difference; nothing of a cost's."""
    if math.isnan(float(row["p_holm"])):  # type: ignore[arg-type]
        return ""
    direction = "more" if float(row["difference"]) > 0 else "less"  # type: ignore[arg-type]
    one_way = all(value > 0 for value in by_seed) or all(value < 0 for value in by_seed)
    if float(row["p_holm"]) >= LEVEL:  # type: ignore[arg-type]
        return "open"
    if len(by_seed) < 2:
        return f"{direction}, as far as one seed tells"
    return f"{direction}, in every seed" if one_way else f"{direction}, but not in every seed"


def _bounds_words(rows: pandas.DataFrame) -> str:
    seeds = int(rows["seeds"].max()) if len(rows) else 0
    kinds = joined(sorted({text for text in rows["seed_bounds"] if text}))
    if seeds == 0:
        return "None of these cells was evaluated."
    return (f"In brackets: of effects the 95 % bootstrap interval over pairs"
            f"{' and seeds' if seeds > 1 else ''}, of costs the bounds over seeds ({kinds}). {few_seeds_words(seeds)}")


def _with_bounds(row: dict[str, object], name: str) -> str:
    value, low, high = (float(row[key]) for key in (name, f"{name}_low", f"{name}_high"))  # type: ignore[arg-type]
    if math.isnan(low):
        return _form(name, value)
    return f"{_form(name, value)} ({_form(name, low)} to {_form(name, high)})"


def _form(name: str, value: float) -> str:
    if name in SHARES:
        return percent(value) if name == "repetition" else number(100 * value, 1)
    return number(value, 3 if name == "kl" else 2)


def _signed(name: str, value: float) -> str:
    return signed(100 * value if name in SHARES else value, {"kl": 3}.get(name, 1 if name in SHARES else 2))


def _probability(value: float) -> str:
    if math.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _row(cells: Iterable[str]) -> list[str]:
    return [f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"]
