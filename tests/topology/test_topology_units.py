"""Quantities: exact canonical numbers, and a hint for everything people write by mistake."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topology.units import (
    RATE_BIT_S_MAX,
    RATE_UNITS,
    UnitError,
    parse_duration,
    parse_percent,
    parse_rate,
    parse_ratio,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "bit_s"),
    [
        ("1 Mbit/s", 1_000_000),
        ("1Mbit/s", 1_000_000),
        ("  1.6  Mbit/s ", 1_600_000),
        ("0.1 kbit/s", 100),
        ("35 kbit/s", 35_000),
        ("2.5 Gbit/s", 2_500_000_000),
        ("64000 bit/s", 64_000),
    ],
)
def test_rates(text: str, bit_s: int) -> None:
    assert parse_rate(text) == bit_s


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("5 Mbps", "write 5 Mbit/s"),
        ("100.1 Gbit/s", "leave the key out for an unlimited link"),
        ("999999999999999999999999 Gbit/s", "leave the key out for an unlimited link"),
        ("256kbps", "write 256 kbit/s"),
        ("5 mbit/s", "write 5 Mbit/s"),
        ("5 Mbit", "write 5 Mbit/s"),
        ("2 MB/s", "if bytes are meant, write 16 Mbit/s, else 2 Mbit/s"),
        ("100 B/s", "that is bytes; write 800 bit/s"),
        (5, "write 5 Mbit/s"),
        (1.5, "write 1.5 Mbit/s"),
        ("5", "write 5 Mbit/s"),
        ("0 Mbit/s", "leave the key out for an unlimited link"),
        ("0.0001 bit/s", "leave the key out for an unlimited link"),
        ("1e3 kbit/s", "allowed: bit/s, kbit/s, Mbit/s, Gbit/s"),
        ("fast", "write it like 1 Mbit/s"),
        ("-1 Mbit/s", "write it like 1 Mbit/s"),
        ("１ Mbit/s", "write it like 1 Mbit/s"),
        (True, "write it like 1 Mbit/s"),
        (None, "write it like 1 Mbit/s"),
        (["1 Mbit/s"], "write it like 1 Mbit/s"),
        ("9" * 100 + " bit/s", "write it like 1 Mbit/s"),
    ],
)
def test_refused_rates_say_what_to_write(value: object, hint: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_rate(value)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("parse", "text", "number"),
    [
        (parse_duration, "80 ms", 0.08),
        (parse_duration, "250 us", 0.00025),
        (parse_duration, "40 s", 40.0),
        (parse_duration, "2 min", 120.0),
        (parse_duration, "1.5h", 5400.0),
        (parse_duration, "0 ms", 0.0),
        (parse_size, "64 KiB", 65_536),
        (parse_size, "512MB", 512_000_000),
        (parse_size, "1.5 GiB", 1_610_612_736),
        (parse_size, "3028 B", 3028),
        (parse_percent, "1 %", 0.01),
        (parse_percent, "0.5%", 0.005),
        (parse_ratio, "70 %", 0.7),
        (parse_ratio, 0.7, 0.7),
        (parse_ratio, 1, 1.0),
    ],
)
def test_other_quantities(parse: Callable[[object], float], text: object, number: float) -> None:
    assert parse(text) == number


@pytest.mark.parametrize(
    ("parse", "value", "hint"),
    [
        (parse_duration, 30, "write 30 s"),
        (parse_duration, "30 sec", "write 30 s"),
        (parse_duration, "5 m", "write 5 min"),
        (parse_duration, "1:30", "allowed: us, ms, s, min, h"),
        (parse_duration, -5, "write it like 80 ms"),
        (parse_size, 512, "write 512 MiB"),
        (parse_size, "512 mb", "write 512 MB"),
        (parse_size, "512 m", "write 512 MiB"),
        (parse_size, "0.3 B", "use a smaller unit"),
        (parse_percent, 1, "write 1 %"),
        (parse_percent, "1 permille", "write 1 %"),
        (parse_ratio, "0.7", "write 0.7 %"),
        (parse_ratio, True, "write it like 1 %"),
    ],
)
def test_other_refusals(parse: Callable[[object], float], value: object, hint: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse(value)
    assert caught.value.hint == hint


@given(st.integers(1, 10**9), st.integers(0, 3), st.sampled_from(sorted(RATE_UNITS)))
def test_decimals_lose_nothing(digits: int, places: int, unit: str) -> None:
    """What is written is what is meant: no binary fraction comes between (0.07 Mbit/s is 70,000 bit/s, not
    70,000.00…1).
    """
    exact = Fraction(digits, 10**places) * RATE_UNITS[unit]
    text = f"{digits // 10**places}.{digits % 10**places:0{places}d}" if places else str(digits)
    if exact.denominator == 1 and exact <= RATE_BIT_S_MAX:
        assert parse_rate(f"{text} {unit}") == exact
    else:
        with pytest.raises(UnitError):
            parse_rate(f"{text} {unit}")


@given(st.one_of(st.text(max_size=80), st.floats(), st.integers(), st.none(), st.booleans()))
def test_nothing_but_unit_errors(value: object) -> None:
    for parse in (parse_rate, parse_duration, parse_size, parse_percent, parse_ratio):
        with contextlib.suppress(UnitError):
            assert isinstance(parse(value), int | float)


def test_a_size_beyond_a_petabyte_is_a_slip() -> None:
    assert parse_size("1048576 GiB") == 1 << 50
    with pytest.raises(UnitError, match="petabyte"):
        parse_size("1048577 GiB")
