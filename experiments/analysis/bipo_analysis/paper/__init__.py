"""The experiments of the BiPO paper (arXiv 2406.00045), each one command: python -m bipo_analysis.paper."""
