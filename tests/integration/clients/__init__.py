"""The clients for people's own tasks and programs."""
