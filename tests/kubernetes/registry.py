"""A registry with one image, on loopback, that can be overloaded."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

from aiohttp import web

__all__ = ["Registry"]


class Registry:
    """Serves an OCI archive as ``kernel:1``, under an ID of its own.

    With the ID of the archive's image the kubelet would take that one, too, for an image that was
    pulled from here, and refuse it to pods that may not pull.

    Attributes
    ----------
    overloaded: while it is, everything is answered with 503.
    refused: how many requests were.
    """

    def __init__(self, archive: Path) -> None:
        self.overloaded = False
        self.refused = 0
        self._port = 0
        self._archive = archive
        self._made: dict[str, bytes] = {}
        with tarfile.open(archive) as tar:
            self._blobs = {
                f"sha256:{Path(member.name).name}": (member.offset_data, member.size)
                for member in tar
                if member.name.startswith("blobs/")
            }
            index = tar.extractfile("index.json")
            assert index is not None
            listed = json.load(index)["manifests"][0]
        manifest = json.loads(self._read(listed["digest"]))
        config = json.loads(self._read(manifest["config"]["digest"]))
        config["author"] = "a registry of the tests"
        manifest["config"] |= self._add(config)
        self._manifest = listed | self._add(manifest)
        self._runner: web.AppRunner | None = None

    async def start(self) -> Registry:
        """Listen on a free port."""
        app = web.Application()
        app.router.add_get("/v2/", self._ping)
        app.router.add_get("/v2/kernel/manifests/{name}", self._serve_manifest)
        app.router.add_get("/v2/kernel/blobs/{name}", self._serve_blob)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def close(self) -> None:
        """End."""
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def image(self) -> str:
        """The image's name, by which it is pulled from here."""
        return f"127.0.0.1:{self._port}/kernel:1"

    def _add(self, content: dict[str, Any]) -> dict[str, Any]:
        """Serve this, too: its digest and size."""
        data = json.dumps(content).encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._made[digest] = data
        return {"digest": digest, "size": len(data)}

    def _admit(self) -> None:
        if self.overloaded:
            self.refused += 1
            raise web.HTTPServiceUnavailable

    async def _ping(self, request: web.Request) -> web.Response:
        self._admit()
        return web.Response()

    async def _serve_manifest(self, request: web.Request) -> web.Response:
        self._admit()
        body = self._read(self._manifest["digest"])
        headers = {"Docker-Content-Digest": self._manifest["digest"]}
        return web.Response(body=body, content_type=self._manifest["mediaType"], headers=headers)

    async def _serve_blob(self, request: web.Request) -> web.Response:
        self._admit()
        if request.match_info["name"] not in self._blobs.keys() | self._made.keys():
            raise web.HTTPNotFound
        body = self._read(request.match_info["name"])
        return web.Response(body=body, content_type="application/octet-stream")

    def _read(self, digest: str) -> bytes:
        if digest in self._made:
            return self._made[digest]
        offset, size = self._blobs[digest]
        with self._archive.open("rb") as file:
            file.seek(offset)
            return file.read(size)
