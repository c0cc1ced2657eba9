"""Models of our tasks' arguments, which are checked before a job runs."""
