"""The search itself: one step, and the loop around it. No Ray, no MLflow, no Optuna."""
