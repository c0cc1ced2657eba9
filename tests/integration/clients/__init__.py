"""Clients for people's own tasks and programs."""
