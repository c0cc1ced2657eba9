"""The built-in tasks, which producers send jobs to."""
