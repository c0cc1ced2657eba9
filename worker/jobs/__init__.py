"""Runs, reschedules and deduplicates jobs, and keeps their history."""
