"""Stages by name (in a topology) and by code (in a payload)."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from wire.codecs.errors import CodecError
from wire.plugins import PluginError, load

PLUGIN_CODE_MIN = 128  # codes below are EdgeRig's own, those that are yet to come included


class Stage(Protocol):
    """Whatever is registered: `name` is what a topology says, `code` is the byte that a payload carries."""

    name: str
    code: int


S = TypeVar("S", bound=Stage)


class Registry(Generic[S]):
    """Stages of one kind. Codes are for ever: a code that was once sent is never given to another stage."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._by_name: dict[str, S] = {}
        self._by_code: dict[int, S] = {}

    def add(self, stage: S) -> S:
        if stage.name in self._by_name or stage.code in self._by_code:
            raise ValueError(
                f"two {self._kind} stages claim the name {stage.name!r} or the code {stage.code}"
            )
        self._by_name[stage.name] = stage
        self._by_code[stage.code] = stage
        return stage

    def named(self, name: str) -> S:
        """The stage a configuration asks for."""
        if name not in self._by_name:
            allowed = ", ".join(sorted(self._by_name))
            raise CodecError("spec", f"{self._kind}: {name!r} is not one of {allowed}")
        return self._by_name[name]

    def coded(self, code: int) -> S:
        """The stage a payload asks for."""
        if code not in self._by_code:
            raise CodecError("stage", f"{self._kind} code {code}")
        return self._by_code[code]

    def __iter__(self) -> Iterator[S]:
        return iter(self._by_name.values())


def load_stages(package: str, path: list[str]) -> None:
    """Import every module of a stage folder, so that a new stage is one new file and nothing else."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


def load_plugins(group: str, registry: Registry[S]) -> None:
    """Add the stages of installed plug-ins: an entry point is a class without arguments. Coordinator and devices need
    the package. Raises PluginError.
    """
    for name, make, owner in load(group):
        try:
            stage = make()
            if stage.name != name or not PLUGIN_CODE_MIN <= stage.code <= 255:
                raise ValueError(f"name {stage.name!r}, code {stage.code}")
            registry.add(stage)
        except Exception as error:
            raise PluginError(
                f"plug-in {name!r} of {owner}: {error}; wanted are a `name` like its entry point's and a `code` of its "
                f"own from {PLUGIN_CODE_MIN} to 255"
            ) from error
