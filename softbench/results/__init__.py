"""What a reader sees: the record of a run, tables, the plot, comparisons, recommendations, units."""
