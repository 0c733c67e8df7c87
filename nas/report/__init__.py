"""Views for a person: report, figures, fronts as text."""
