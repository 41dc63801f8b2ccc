"""``python -m fashionbatch`` is the command ``fashionbatch``."""

from fashionbatch.cli.app import main

if __name__ == "__main__":
    main()
