"""Evaluate detectors on natural, attacked and out-of-distribution images.

EvaluationRequest ─ planning.resolve() ─→ EvaluationPlan ─ running.run_evaluation() ─→ Evaluation ─ summary ─→ JSON
"""
