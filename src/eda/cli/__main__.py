"""`python -m eda.cli`: the `eda` command for environments where it is not on PATH."""

from eda.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
