"""Costs: the bill, prices, what pretraining cost, the forecast."""
