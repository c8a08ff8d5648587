"""What the README claims about speed, measured: ``python -m benchmarks [--quick] [name ...]``.

Every module here that does not start with an underscore is a subject. It has
``rows(*, quick: bool) -> Iterator[Row]`` and yields each row as soon as it is measured.
"""
