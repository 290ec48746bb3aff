"""The specification of a chain, for those who work with codecs; it lives where no numpy is needed to read it."""

from __future__ import annotations

from wire.chain_spec import CodecSpec, Feedback, Sparsify, StageName, uplink_spec

__all__ = ["CodecSpec", "Feedback", "Sparsify", "StageName", "uplink_spec"]
