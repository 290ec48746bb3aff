"""Bytes and arrays: topics, messages, chunks, codecs. The lowest floor, on the device as on the operator's machine."""

VERSION = "0.1.0"  # of the whole distribution; here because every image has this package
