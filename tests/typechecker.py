"""The run-time checker of types and tensor shapes that the tests switch on for the whole package."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
