"""Links proposed from the data where few or none are known."""
