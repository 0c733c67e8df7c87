"""Tasks: what networks are trained for, and what they are judged by. One task per file."""

from nas.tasks.base import Score, Task
from nas.tasks.classification import Classification

__all__ = ["Classification", "Score", "Task"]
