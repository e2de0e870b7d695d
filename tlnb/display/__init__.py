"""What people see: text, HTML and PNG made from records. Knows records, computes nothing.

`HTML` maps each type to the function that makes its card; charts are drawn when a card is, never before.
"""
