"""The course: checks, exercises by lesson."""
