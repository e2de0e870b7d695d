"""Tuning: hyperparameter search, and advice on strategy and source."""
