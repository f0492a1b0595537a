"""Other data sets as sources: their recordings, patients and labels in the form that the pipeline reads."""
