"""Sealed values: opened only by their key and only where they belong."""

import base64
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders_backup import vault
from orders_backup.errors import SealedValueError, SettingsError
from orders_backup.settings import parse_keys
from orders_backup.vault import Vault

ACCOUNT = uuid4()
SECRET = "eyJhbGciOiJSUzI1NiJ9.refresh"


def keys(*ids: str) -> str:
    """ENCRYPTION_KEYS with these key ids; a key's bytes follow from its id."""
    return ",".join(f"{name}:{base64.b64encode(name.encode().ljust(32, b'+')).decode()}" for name in ids)


def opened_by(*ids: str) -> Vault:
    return vault.from_keys(parse_keys(keys(*ids)))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_was_sealed_is_opened_again(secret: str) -> None:
    sealed = opened_by("k1").seal(secret, ACCOUNT, 1, "refresh")
    assert opened_by("k1").open(sealed, ACCOUNT, 1, "refresh") == secret


@pytest.mark.parametrize(
    "elsewhere",
    [
        (uuid4(), 1, "refresh"),
        (ACCOUNT, 2, "refresh"),
        (ACCOUNT, 1, "access"),
        (ACCOUNT, 1),
        (ACCOUNT, 1, "refresh", ""),
        (ACCOUNT, "refresh", 1),
        (f"{ACCOUNT}1", "refresh"),
        (),
    ],
)
def test_a_value_is_refused_under_another_account_generation_or_field(elsewhere: tuple[object, ...]) -> None:
    sealed = opened_by("k1").seal(SECRET, ACCOUNT, 1, "refresh")
    with pytest.raises(SealedValueError, match="changed, or belongs elsewhere"):
        opened_by("k1").open(sealed, *elsewhere)


def test_the_first_key_seals_and_all_open() -> None:
    old = opened_by("k1").seal(SECRET, ACCOUNT)
    new = opened_by("k2", "k1").seal(SECRET, ACCOUNT)
    assert opened_by("k2", "k1").open(old, ACCOUNT) == SECRET
    assert opened_by("k2").open(new, ACCOUNT) == SECRET
    for wrong, sealed in (("k2", old), ("k1", new)):
        with pytest.raises(SealedValueError, match="ENCRYPTION_KEYS no longer lists"):
            opened_by(wrong).open(sealed, ACCOUNT)


def test_another_key_under_the_same_id_opens_nothing() -> None:
    sealed = opened_by("k1").seal(SECRET, ACCOUNT)
    with pytest.raises(SealedValueError):
        vault.from_keys(parse_keys(f"k1:{base64.b64encode(bytes(32)).decode()}")).open(sealed, ACCOUNT)


def test_a_value_cannot_be_relabelled_to_another_key_id() -> None:
    same_bytes = base64.b64encode(bytes(32)).decode()
    both = vault.from_keys(parse_keys(f"k1:{same_bytes},k2:{same_bytes}"))
    sealed = both.seal(SECRET, ACCOUNT)
    with pytest.raises(SealedValueError):
        both.open(sealed.replace(b"k1", b"k2", 1), ACCOUNT)


def test_every_flipped_bit_is_refused() -> None:
    here = opened_by("k1", "k2")
    sealed = here.seal(SECRET, ACCOUNT)
    for place in range(len(sealed)):
        for bit in range(8):
            flipped = sealed[:place] + bytes([sealed[place] ^ (1 << bit)]) + sealed[place + 1 :]
            with pytest.raises(SealedValueError):
                here.open(flipped, ACCOUNT)


def test_every_shortened_or_lengthened_value_is_refused() -> None:
    here = opened_by("k1")
    sealed = here.seal(SECRET, ACCOUNT)
    for wrong in [*(sealed[:length] for length in range(len(sealed))), sealed + b"\0", b"\0" + sealed]:
        with pytest.raises(SealedValueError):
            here.open(wrong, ACCOUNT)


@given(st.binary(max_size=80).map(lambda rest: b"\x01" + rest) | st.binary(max_size=80))
def test_arbitrary_bytes_are_refused_and_never_crash(sealed: bytes) -> None:
    with pytest.raises(SealedValueError):
        opened_by("k1").open(sealed, ACCOUNT)


def test_the_same_secret_is_never_sealed_twice_alike_and_does_not_show() -> None:
    sealed = {opened_by("k1").seal(SECRET, ACCOUNT) for _ in range(100)}
    assert len(sealed) == 100
    assert not any(SECRET.encode() in one or SECRET.encode()[:8] in one for one in sealed)


def test_no_error_tells_the_secret_or_the_key() -> None:
    sealed = opened_by("k1").seal(SECRET, ACCOUNT)
    with pytest.raises(SealedValueError) as refused:
        opened_by("k1").open(sealed, "elsewhere")
    told = f"{refused.value!s} {refused.value!r} {refused.value.args}"
    assert SECRET not in told
    assert "+++" not in told


def test_the_vault_shows_no_key() -> None:
    assert "+++" not in f"{opened_by('k1')!r} {opened_by('k1')!s}"


def test_without_a_key_there_is_no_vault_and_one_sentence_says_what_to_write() -> None:
    with pytest.raises(SettingsError, match=r"^ENCRYPTION_KEYS is not set\. Write ENCRYPTION_KEYS=key1:"):
        vault.from_keys([])


def test_a_new_key_is_one_that_the_settings_take_and_no_two_are_alike() -> None:
    made = {vault.new_key() for _ in range(20)}
    assert len(made) == 20
    assert all(len(parse_keys(one)) == 1 for one in made)


def test_a_signature_holds_for_its_content_its_purpose_and_as_long_as_its_key_is_listed() -> None:
    signed = opened_by("k1").sign(b"place 7", purpose="cursor")
    assert opened_by("k2", "k1").signed(signed, purpose="cursor") == b"place 7"
    assert opened_by("k2").signed(signed, purpose="cursor") is None
    assert opened_by("k1").signed(signed, purpose="link") is None
    assert opened_by("k1").signed(signed[:-1] + b"8", purpose="cursor") is None
    assert opened_by("k1").signed(b"place 7", purpose="cursor") is None
    assert opened_by("k1").signed(b"", purpose="cursor") is None
