"""amqtt as it comes, with a plugin that counts and one that permits everything, behind our TLS context.

Run as a process: `python -m benchmarks.stock_broker STATE`; prints its address when it listens, and on SIGUSR1 how
many messages were counted.
"""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.plugins.base import BasePlugin, BaseTopicPlugin

from broker_plugins.engine.handshakes import server_context


class CountingPlugin(BasePlugin[Any]):
    """Counts messages, and does nothing else."""

    count = 0

    async def on_broker_message_received(self, **_: Any) -> None:
        """Count one."""
        self.count += 1


class AlwaysPlugin(BaseTopicPlugin):
    """Permits everything."""

    async def topic_filtering(self, **_: Any) -> bool:
        """Say yes."""
        return True


async def serve(state: Path) -> None:
    """Serve until SIGTERM."""
    broker = Broker(
        {
            "listeners": {"default": {"type": "external"}},
            "plugins": {
                "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True},
                "benchmarks.stock_broker.CountingPlugin": {},
                "benchmarks.stock_broker.AlwaysPlugin": {},
            },
        }
    )

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await broker.external_connected(StreamReaderAdapter(reader), StreamWriterAdapter(writer), "default")

    await broker.start()
    context = server_context(state / "pki/server.pem", state / "pki/server-key.pem", [state / "pki/ca.pem"])
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    counter: Any = broker.plugins_manager.get_plugin("CountingPlugin")
    loop.add_signal_handler(signal.SIGUSR1, lambda: print(counter.count, flush=True))
    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context, ssl_handshake_timeout=30, backlog=4096)
    host, port = server.sockets[0].getsockname()[:2]
    print(f"ready mqtts={host}:{port}", flush=True)
    await stop.wait()
    server.close()
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))  # the loop that its own command runs
