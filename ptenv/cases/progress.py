"""What a build of minutes is at, on standard error."""

import sys
from collections.abc import Callable
from time import perf_counter


def teller(case_id: str, large: bool) -> Callable[[str], None]:
    """Takes lines about a case's build; small cases are built in silence."""
    began = perf_counter()

    def tell(text: str) -> None:
        if large:
            seconds = perf_counter() - began
            print(f"building case {case_id}, {seconds:.0f} s: {text}", file=sys.stderr)

    return tell
