"""A client that can be rude: it sends exactly the bytes it is given, and reads answers by RFC 9112 §6.3."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes
    head: bytes


class RawClient:
    """One connection to a server on this machine. Every read fails after `timeout_s`."""

    def __init__(self, port: int, *, host: str = "127.0.0.1", timeout_s: float = 10) -> None:
        self._host, self._port, self._timeout_s = host, port, timeout_s

    async def __aenter__(self) -> RawClient:
        self.reader, self.writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def end(self) -> None:
        """Says that nothing more will be sent; answers can still be read."""
        self.writer.write_eof()

    async def read_answer(self, method: str = "GET") -> Answer:
        async with asyncio.timeout(self._timeout_s):
            head = await self.reader.readuntil(b"\r\n\r\n")
            status_line, *lines = head[:-4].decode("latin-1").split("\r\n")
            status = int(status_line.split(" ", 2)[1])
            fields: dict[str, str] = {}
            for line in lines:
                name, _, value = line.partition(": ")
                assert name.lower() not in fields, f"{name} twice"
                fields[name.lower()] = value
            if method == "HEAD" or status in (204, 304):
                body = b""
            elif fields.get("transfer-encoding") == "chunked":
                assert "content-length" not in fields
                body = await self._read_chunks()
            else:
                body = await self.reader.readexactly(int(fields["content-length"]))
            return Answer(status, fields, body, head)

    async def _read_chunks(self) -> bytes:
        body = b""
        while True:
            line = await self.reader.readuntil(b"\r\n")
            chunk = await self.reader.readexactly(int(line, 16))
            assert await self.reader.readexactly(2) == b"\r\n"
            if not chunk:
                return body
            body += chunk

    async def ask(self, data: bytes, method: str = "GET") -> Answer:
        await self.send(data)
        return await self.read_answer(method)

    async def read_to_end(self) -> bytes:
        """What still comes until the server closes."""
        async with asyncio.timeout(self._timeout_s):
            return await self.reader.read(-1)


async def get(port: int, target: str, *fields: str, method: str = "GET") -> Answer:
    """One request on a connection of its own."""
    lines = (f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *fields, "", "")
    async with RawClient(port) as client:
        return await client.ask("\r\n".join(lines).encode("latin-1"), method)
