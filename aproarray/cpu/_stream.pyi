from collections.abc import Callable

# By C's names of the types of values and image: stream["float", "double"].
stream: dict[tuple[str, str], Callable[..., None]]
pair_up: dict[tuple[str, str], Callable[..., None]]
