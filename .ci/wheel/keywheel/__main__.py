"""`python -m keywheel …` is `celery -A keywheel worker …` without Celery's other commands."""

from keywheel.worker.__main__ import main

if __name__ == "__main__":
    main()
