"""The smallest Django project that enqueues jobs for Keywheel, without imports from Keywheel."""
