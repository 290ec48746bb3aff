"""As many elements as fit into a payload of so many bytes."""

from __future__ import annotations

from collections.abc import Callable

from wire.codecs.errors import CodecError

BITS_FIRST_GUESS = 12.0  # an element of top-1 % with int8 takes 10 to 12 bits
FILLED = 0.97  # good enough: a further encoding would gain less than 3 %
TRIES = 6  # the size is close to proportional to the count, so two or three do; each costs a full encoding


def fill(encode: Callable[[int], bytes], n: int, bytes_max: int) -> bytes:
    """The payload of the most elements that keeps within `bytes_max`; `encode(count)` makes one.

    Raises CodecError("spec") if not even one element fits.
    """
    count = max(1, min(n, int(bytes_max * 8 / BITS_FIRST_GUESS)))
    too_many, best, best_count = n + 1, b"", 0
    for _ in range(TRIES):
        payload = encode(count)
        if len(payload) <= bytes_max:
            best, best_count = payload, count
            if count == n or len(payload) >= FILLED * bytes_max or count + 1 >= too_many:
                break
        else:
            too_many = count
        aim = int(count * (FILLED + 1) / 2 * bytes_max / len(payload))
        count = max(best_count + 1, min(too_many - 1, n, aim))
        if count >= too_many:
            break
    while not best and too_many > 1:  # sizes jumped about: approach from below
        too_many //= 2
        payload = encode(max(1, too_many))
        best = payload if len(payload) <= bytes_max else b""
    if not best:
        raise CodecError("spec", f"not one element fits into {bytes_max} bytes")
    return best
