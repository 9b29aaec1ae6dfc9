"""What the options make of a root: its files, its rules, and the site that answers from them.

Opened in a thread before the server listens; what only the first client needs is loaded after that.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aioserve.config import Config, ConfigError
from aioserve.content.containment import Symlinks
from aioserve.content.disk import Disk
from aioserve.content.files import Files
from aioserve.content.rule_files import RULE_NAMES, RuleFiles

if TYPE_CHECKING:
    from aioserve.content.digests import Digests
    from aioserve.content.forms import Forms
    from aioserve.content.rendering import Renderer
    from aioserve.content.site import Site
    from aioserve.protocol.policy import Policies


# What describes an array or a group of Zarr version 2, and a whole store of them. Version 3 hides nothing.
_ZARR_NAMES = (b".zarray", b".zattrs", b".zgroup", b".zmetadata")


class OpenSite:
    """The root and what is mounted in it, open until `close`.

    Raises OSError for what cannot be read, and ConfigError for a template that cannot be used.
    """

    def __init__(self, root: str | os.PathLike[str], config: Config, disk: Disk) -> None:
        self._config = config
        self._disk = disk
        self._all_files: list[Files] = []
        self._forms: list[Forms] = []
        self._site: Site | None = None
        self._renderer = load_renderer(config) if config.browse else None
        try:
            for path in (root, *(folder for _, folder in config.mounts)):
                self._all_files.append(self._open(path))
            self.rule_files = RuleFiles(
                self._all_files[0],
                disk,
                redirects=(*config.redirects, *config.rewrites),
                headers=config.headers,
                reads=config.rules,
            )
            self.rule_files.load()
        except BaseException:
            self.close()
            raise

    def _open(self, path: str | os.PathLike[str]) -> Files:
        config = self._config
        return Files(
            path,
            symlinks=Symlinks(config.symlinks),
            hidden=config.hidden,
            shown=_ZARR_NAMES if config.data else (),
            disk=self._disk,
            # One budget, in equal parts.
            cache_bytes=config.cache_bytes // (1 + len(config.mounts)),
        )

    def load(self) -> Site:
        """The site, with all that it needs to answer."""
        if self._site is None:
            policies = _make_policies(self._config)
            digests = None
            if self._config.etag == "hash":
                from aioserve.content.digests import Digests

                digests = Digests(self._disk)
            mounts = []
            for (path, _), files in zip(self._config.mounts, self._all_files[1:], strict=True):
                prefix = tuple(os.fsencode(name) for name in path.split("/") if name)
                mounts.append((prefix, self._make(files, policies, digests, prefix=prefix)))
            self._site = self._make(self._all_files[0], policies, digests, mounts=mounts)
            self._site.rules = self.rule_files.rules
        return self._site

    def _make(
        self,
        files: Files,
        policies: Policies,
        digests: Digests | None,
        *,
        mounts: Sequence[tuple[tuple[bytes, ...], Site]] = (),
        prefix: tuple[bytes, ...] = (),
    ) -> Site:
        from aioserve.content.route import Routes
        from aioserve.content.site import Site

        config = self._config
        forms = archives = listings = None
        if config.compress == "auto":
            from aioserve.content.forms import Forms

            forms = Forms(files, self._disk, digests)
            self._forms.append(forms)
        if config.archive:
            from aioserve.content.archive import Archives

            archives = Archives(files, self._disk)
        unsent = RULE_NAMES if config.rules and not prefix else ()
        if self._renderer is not None:
            from aioserve.content.listing import Listings

            listings = Listings(
                files,
                self._renderer,
                hidden=config.hidden,
                hide=tuple(map(os.fsdecode, unsent)),
                prefix=prefix,
            )
        routes = Routes(
            index=config.index,
            only_name=files.only_name,
            is_mounted=bool(prefix),
            sidecars=config.precompressed,
            unsent=unsent,
            clean_urls=config.clean_urls,
            spa=config.spa if not prefix else None,
            pages=dict(config.errors),
            listed=config.browse,
        )
        return Site(
            files,
            routes=routes,
            precompressed=config.precompressed,
            forms=forms,
            policies=policies,
            head_ranges=config.data,
            archives=archives,
            listings=listings,
            digests=digests,
            mounts=mounts,
            prefix=prefix,
        )

    def share_looks(self, *, shares: bool) -> None:
        """Says whether one look at a name is enough for all who ask for it in one turn of the event loop."""
        for files in self._all_files:
            files.shares_looks = shares

    async def renew_rules(self) -> bool:
        """Takes over what the files of rules say; True when that is something else than before."""
        if not await self.rule_files.refresh() or self._site is None:
            return False
        self._site.rules = self.rule_files.rules
        return True

    def close_idle(self) -> None:
        """Closes what is open for nobody; called once a second."""
        for files in self._all_files:
            files.close_idle()

    def close(self) -> None:
        """Closes all of it; what still runs in threads ends by itself."""
        for forms in self._forms:
            forms.close()
        for files in self._all_files:
            files.close()


def load_renderer(config: Config) -> Renderer:
    """What makes the lists of folders. Raises ConfigError when the template cannot be used."""
    from aioserve.content.rendering import Renderer

    archives: Sequence[str] = ()
    if config.archive:
        from aioserve.content.archive import list_forms

        archives = [form.value for form in list_forms()]
    try:
        return Renderer(config.browse_template, archives)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"browse-template: {config.browse_template}: {reason}") from None


def _make_policies(config: Config) -> Policies:
    """What the options say of the fields of answers."""
    from aioserve.protocol.cors import ANY, Cors
    from aioserve.protocol.policy import (
        COI_FIELDS,
        SECURITY_FIELDS,
        Policies,
        parse_cache_control,
        parse_field,
    )

    origins = config.cors or ((ANY,) if config.data else ())
    return Policies(
        presets=(
            *((SECURITY_FIELDS,) if config.security_headers else ()),
            *((COI_FIELDS,) if config.coi else ()),
        ),
        fields=tuple(map(parse_field, config.header)),
        cache_control=tuple(map(parse_cache_control, config.cache_control)),
        cors=Cors(origins) if origins else None,
    )
