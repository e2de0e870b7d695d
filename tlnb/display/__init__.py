"""Renders records as text, HTML and PNG. Computes nothing itself.

`cards.HTML` maps each type to the function that renders its card. Charts are drawn only when their
card is rendered.
"""
