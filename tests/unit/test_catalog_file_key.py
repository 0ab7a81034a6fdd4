"""The catalog on disk follows the key that secrets are encrypted with."""

from pathlib import Path

from services.inference_router.catalog_file import CatalogFile, SavedCatalog
from services.runtime.keyring import Keyring, add_key, retire_keys

CATALOG = SavedCatalog(1.0, {"provider_registry": 7}, [b"p"], [b"v"], [("default", "mine", "sk-1")])


def test_a_file_asks_for_the_newest_key_until_it_is_written_with_it(tmp_path: Path) -> None:
    keys = tmp_path / "config" / "secret.key"
    file = CatalogFile(tmp_path / "catalog", Keyring.load_or_create(keys))
    file.save(CATALOG)
    assert not file.needs_new_key()
    newest = add_key(keys)
    assert file.needs_new_key()
    started_again = CatalogFile(tmp_path / "catalog", Keyring.load(keys))
    assert started_again.load() == CATALOG
    assert started_again.needs_new_key()
    file.save(CATALOG)
    assert not file.needs_new_key()
    retire_keys(keys, keep=newest)
    assert CatalogFile(tmp_path / "catalog", Keyring.load(keys)).load() == CATALOG


def test_a_key_file_that_cannot_be_read_asks_for_nothing(tmp_path: Path) -> None:
    keys = tmp_path / "config" / "secret.key"
    file = CatalogFile(tmp_path / "catalog", Keyring.load_or_create(keys))
    file.save(CATALOG)
    keys.unlink()
    assert not file.needs_new_key()
    assert not keys.exists()
