"""The one exception of the codecs."""

from __future__ import annotations

# What a payload can be refused for. Counters and the history use these codes, so they never change their
# meaning.
REASONS = {
    "magic": "not a payload of ours",
    "version": "a payload format this side does not speak",
    "too_large": "longer than the limit",
    "n": "made for a model of another size",
    "stage": "names a stage this side does not know",
    "truncated": "ends before what it declares",
    "trailing": "goes on after its end",
    "count": "declares more elements than there can be",
    "compression": "a compressed stream that is broken or would grow past its declared size",
    "positions": "positions out of range or not strictly increasing",
    "bypass": "bypass runs out of range, unsorted or overlapping",
    "scale": "a scale that is negative or not finite",
    "level": "a quantisation level out of range",
    "not_finite": "NaN or infinity among the values",
    "base": "a delta for another base",
    "spec": "a chain that cannot be built: the fault of the configuration, not of a peer",
    "state": "a saved residual that is damaged or of another model",
}


class CodecError(ValueError):
    """Bytes (or values) that a codec refuses. `reason` is a key of REASONS."""

    def __init__(self, reason: str, detail: str = "") -> None:
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {REASONS[reason]}" + (f" ({detail})" if detail else ""))
        self.reason = reason
        self.detail = detail or REASONS[reason]
