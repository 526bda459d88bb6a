"""``python -m dostore.client``."""

from dostore.client.cli import main

main(prog_name="dostore")
