"""The smallest Django project that enqueues jobs for Keywheel; nothing of Keywheel is imported."""
