"""Data sets from folders, tables, archives, arrays and built-in sets, decoded and split."""
