"""Evaluation: predictions, comparisons, probes, embeddings, recorded runs."""
