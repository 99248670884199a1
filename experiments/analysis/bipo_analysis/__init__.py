"""Reads and reports what bipo-dist wrote: run files, sweep directories, collected sweeps and evaluations.

    from bipo_analysis import load_run, load_sweep
    sweep = load_sweep("sweep.h5")                 # or the sweep's directory, at any moment
    sweep.summary.groupby("layer")["accuracy_plus"].mean()
    sweep.runs["smollm2-..."].steps.plot("step", "loss")
    load_evaluation("eval.h5").steerability        # and curve, samples, choices, costs, grid, judge, judge_scores
"""

import gc

# Imports leave no garbage, and looking for it takes a tenth of their time.
_collects = gc.isenabled()
gc.disable()

from .cells import load_cells, panels
from .conceptor import Conceptor, load_conceptor
from .effects import choice_table, difference_table
from .errors import AnalysisError
from .evaluation import Evaluation, load_evaluation
from .evaluation_report import evaluation_report_html, write_evaluation_report
from .intervals import Interval, bootstrap_interval, paired_share_interval, student_interval, wilson_interval
from .layer_curve import compare_layers, layer_curve, ranked_layers
from .names import combined_table
from .paired import Change, changes_from_zero
from .pareto import tradeoffs
from .report import report_html, write_report
from .resampling import holm, paired_bootstrap, seed_interval
from .run import Run, load_run
from .run_report import run_report_html, write_run_report
from .steering import Steering, SteeringVector, load_vector, load_vectors, steer
from .sweep import Sweep, load_sweep
from .sweeps import load_sweeps
from .vectors import convergence, cosine, cosine_matrix, norms

if _collects:
    gc.enable()

__all__ = [
    "AnalysisError", "Change", "Conceptor", "Evaluation", "Interval", "Run", "Steering", "SteeringVector", "Sweep",
    "bootstrap_interval", "changes_from_zero", "choice_table", "combined_table", "compare_layers", "convergence",
    "cosine", "cosine_matrix", "difference_table", "evaluation_report_html", "holm", "layer_curve", "load_cells",
    "load_conceptor", "load_evaluation", "load_run", "load_sweep", "load_sweeps", "load_vector", "load_vectors", "norms",
    "paired_bootstrap",
    "paired_share_interval", "panels", "ranked_layers", "report_html", "run_report_html", "seed_interval", "steer",
    "student_interval", "tradeoffs", "wilson_interval", "write_evaluation_report", "write_report", "write_run_report"]
