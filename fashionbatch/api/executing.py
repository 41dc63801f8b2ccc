"""The executor that a job asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from fashionbatch import registry
from fashionbatch.config.executing import Executing

if TYPE_CHECKING:
    from fashionbatch.execution.executor import Executor


@contextmanager
def executor_of(config: Executing) -> Iterator[Executor]:
    """The executor, closed at the end.

    Raises:
        UsageError: there is none of that name, or it takes no such option.
        ExecutionError: its workers cannot be had.
    """
    component = registry.find("executor", config.executor)
    with closing(registry.create(component, **config.executor_options())) as executor:
        yield executor
