"""What a person looks at: report, figures, fronts as text."""
