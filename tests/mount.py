"""Files as Kubernetes mounts a secret: what a program opens are links, and all files change in one moment."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from tests.pki import Authority, Issued


class Mount:
    """A folder of files; :meth:`put` exchanges all of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._versions = itertools.count()

    def put(self, **files: str) -> None:
        """Write ``name`` → text (a name's ``_`` becomes a dot), and let nothing else be there."""
        version = self.folder / f"..version-{next(self._versions)}"
        version.mkdir(parents=True)
        for name, text in files.items():
            (version / name.replace("_", ".")).write_text(text)
            link = self.folder / name.replace("_", ".")
            if not link.is_symlink():
                link.symlink_to(Path("..data", link.name))
        link = self.folder / "..data.tmp"
        link.symlink_to(version.name)
        os.replace(link, self.folder / "..data")

    def put_pair(self, issued: Issued, authority: Authority) -> None:
        """Write what cert-manager writes."""
        self.put(tls_crt=issued.certificate, tls_key=issued.key, ca_crt=authority.pem)

    @property
    def certificate(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"

    @property
    def authority(self) -> Path:
        return self.folder / "ca.crt"
