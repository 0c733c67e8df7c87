"""The search itself: problem, Pareto front, exact front, searcher, loop."""
