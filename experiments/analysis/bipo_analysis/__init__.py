"""Reads and reports what bipo-dist wrote: run files, sweep directories and collected sweeps.

    from bipo_analysis import load_run, load_sweep
    sweep = load_sweep("sweep.h5")                 # or the sweep's directory, at any moment
    sweep.summary.groupby("layer")["accuracy_plus"].mean()
    sweep.runs["smollm2-..."].steps.plot("step", "loss")
"""

from .errors import AnalysisError
from .intervals import Interval, bootstrap_interval, wilson_interval
from .layer_curve import compare_layers, layer_curve, ranked_layers
from .report import report_html, write_report
from .run import Run, load_run
from .sweep import Sweep, load_sweep
from .vectors import convergence, cosine, cosine_matrix, norms

__all__ = [
    "AnalysisError", "Interval", "Run", "Sweep", "bootstrap_interval", "compare_layers", "convergence", "cosine",
    "cosine_matrix", "layer_curve", "load_run", "load_sweep", "norms", "ranked_layers", "report_html",
    "wilson_interval", "write_report"]
