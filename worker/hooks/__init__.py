"""What we override of Celery's worker, under Celery's own file names where it has them."""
