"""Bringing a result where it is wanted: at least once; whoever takes it can tell by dataset and number."""

import asyncio
from pathlib import Path

import httpx

from fleet.files import write_public
from fleetgate.analytics.question import MEDIA_TYPES
from fleetgate.datasets.model import Definition, Version

_SECONDS = 60


class DeliveryError(Exception):
    """It was not taken."""


async def deliver(definition: Definition, version: Version, data: bytes) -> None:
    """Bring a result to the folder and to the webhook. Raises DeliveryError, which names which."""
    if definition.folder:
        try:
            await asyncio.to_thread(write_public, Path(definition.folder) / version.file_name, data)
        except OSError as error:
            raise DeliveryError(f"folder {definition.folder}: {error.strerror}") from error
    if definition.webhook:
        headers = {
            "Content-Type": MEDIA_TYPES[version.format],
            "Idempotency-Key": f"{version.dataset}/{version.number}",
            "Fleetgate-Dataset": version.dataset,
            "Fleetgate-Version": str(version.number),
            "Fleetgate-Sha256": version.sha256,
        }
        try:
            async with httpx.AsyncClient(timeout=_SECONDS, trust_env=False) as client:
                (await client.post(definition.webhook, content=data, headers=headers)).raise_for_status()
        except httpx.HTTPStatusError as error:
            raise DeliveryError(f"webhook {definition.webhook}: status {error.response.status_code}") from None
        except httpx.HTTPError as error:
            raise DeliveryError(f"webhook {definition.webhook}: {error or type(error).__name__}") from None
