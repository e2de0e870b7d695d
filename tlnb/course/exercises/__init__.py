"""The course's exercises by lesson.

Teachers write their own the same way, in a cell or a module: see lessons/TEACHING.md.
"""

from tlnb.course.checks import Step, Steps, a_run, exercise, some_data
from tlnb.course.exercises import (
    lesson_1,
    lesson_2,
    lesson_3,
    lesson_4,
    lesson_5,
    lesson_6,
    lesson_7,
    lesson_8,
    lesson_9,
)
from tlnb.session.check_results import Check, Checks

__all__ = [
    "Check",
    "Checks",
    "Step",
    "Steps",
    "a_run",
    "exercise",
    "lesson_1",
    "lesson_2",
    "lesson_3",
    "lesson_4",
    "lesson_5",
    "lesson_6",
    "lesson_7",
    "lesson_8",
    "lesson_9",
    "some_data",
]
