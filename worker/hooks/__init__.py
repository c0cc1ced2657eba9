"""What we override of the worker of Celery, under the file names of Celery where it has them."""
