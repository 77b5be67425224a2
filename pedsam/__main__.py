"""`python -m pedsam`."""

from pedsam import main

if __name__ == "__main__":
    main()
