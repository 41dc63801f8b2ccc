"""What a plugin's author tests with: one call for each kind of component.

A call makes the component as fashionbatch would, uses it as fashionbatch would, and raises an
``AssertionError`` of one line that says what the contract wants and what the component did. Calls
take seconds on a CPU.

Example::

    from fashionbatch.testing import check_optimizer
    from my_package.plugin import fashionbatch_optimizers

    def test_contract():
        for spec in fashionbatch_optimizers():
            check_optimizer(spec)
"""

from fashionbatch.testing.backbones import check_backbone
from fashionbatch.testing.catalogues import check_source
from fashionbatch.testing.engines import check_engine
from fashionbatch.testing.executors import check_executor
from fashionbatch.testing.pictures import check_visualizer
from fashionbatch.testing.trainings import (
    check_logger,
    check_optimizer,
    check_regularizer,
    check_schedule,
)

__all__ = [
    "check_backbone",
    "check_engine",
    "check_executor",
    "check_logger",
    "check_optimizer",
    "check_regularizer",
    "check_schedule",
    "check_source",
    "check_visualizer",
]
