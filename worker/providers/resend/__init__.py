"""Calls Resend, and judges its answers."""
