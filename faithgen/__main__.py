"""`python -m faithgen`."""

from faithgen.cli import main

if __name__ == "__main__":
    main()
