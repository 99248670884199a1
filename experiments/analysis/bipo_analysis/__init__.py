"""Reads and reports what bipo-dist wrote: run files, sweep directories, collected sweeps and evaluations.

    from bipo_analysis import load_run, load_sweep
    sweep = load_sweep("sweep.h5")                 # or the sweep's directory, at any moment
    sweep.summary.groupby("layer")["accuracy_plus"].mean()
    sweep.runs["smollm2-..."].steps.plot("step", "loss")
    load_evaluation("eval.h5").steerability        # and curve, samples, choices, costs, grid, judge, judge_scores
"""

from .errors import AnalysisError
from .evaluation import Evaluation, combined_table, load_evaluation
from .evaluation_report import evaluation_report_html, write_evaluation_report
from .intervals import Interval, bootstrap_interval, wilson_interval
from .layer_curve import compare_layers, layer_curve, ranked_layers
from .pareto import tradeoffs
from .report import report_html, write_report
from .run import Run, load_run
from .sweep import Sweep, load_sweep
from .vectors import convergence, cosine, cosine_matrix, norms

__all__ = [
    "AnalysisError", "Evaluation", "Interval", "Run", "Sweep", "bootstrap_interval", "combined_table",
    "compare_layers", "convergence", "cosine", "cosine_matrix", "evaluation_report_html", "layer_curve",
    "load_evaluation", "load_run", "load_sweep", "norms", "ranked_layers", "report_html", "tradeoffs",
    "wilson_interval", "write_evaluation_report", "write_report"]
