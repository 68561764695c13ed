"""The console script as `python -m orders_backup.cli`."""

from orders_backup.cli import main

if __name__ == "__main__":
    main()
