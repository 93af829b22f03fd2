"""What kernels return, checked before it is used: a backend may be anybody's."""

from __future__ import annotations

from typing import Any

__all__ = ["check_pair"]

Array = Any


def check_pair(name: str, returned: Any) -> tuple[Array, Array]:
    """What ``loss_and_gradient`` of a backend returned, if that is a pair.

    Parameters
    ----------
    name : str
        Of the backend, for the message.
    returned : object
        What came back.

    Returns
    -------
    tuple of array
        ``returned``.

    Raises
    ------
    TypeError
        It is no pair.

    Examples
    --------
    >>> from softbench.interface import check_pair
    >>> check_pair("mine", (1.0, 2.0))
    (1.0, 2.0)
    """
    if type(returned) is not tuple or len(returned) != 2:
        raise TypeError(
            f"backend {name!r}: loss_and_gradient returned a {type(returned).__name__}, expected a tuple of row losses "
            f"and their gradient"
        )
    return returned
