"""Datasets, labels, training, judging, registry, predictors."""
