"""Data sets: from folders, tables, archives, arrays and built-in sets to decoded images and labels in splits."""
