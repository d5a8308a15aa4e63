"""Policies as they are kept: versions of a document, one of which counts, and what they are attached to. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fleet.policy.document import Document


class TargetKind(StrEnum):
    """What a policy may be attached to."""

    ALL = "all"
    """Every device; the target has no name."""
    DEVICE = "device"
    TYPE = "type"
    GROUP = "group"
    """The devices of a group, and of all groups below it."""
    CERTIFICATE = "certificate"
    """Connections by the certificate with this fingerprint."""


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """What a policy is attached to."""

    kind: TargetKind
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a policy: its document as JSON, and what that means."""

    number: int
    source: Mapping[str, Any]
    document: Document
    created: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy; `default_version` counts. `version` counts changes of the policy itself."""

    name: str
    default_version: int
    versions: Mapping[int, Version]
    description: str = ""
    version: int = 1
    created: int = 0
    updated: int = 0
    attached: frozenset[Target] = field(default_factory=frozenset)
