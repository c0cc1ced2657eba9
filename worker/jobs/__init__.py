"""Jobs: how one is run, rescheduled, cancelled, and what it remembers."""
