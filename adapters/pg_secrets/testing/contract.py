"""What every adapter has to do, as tests: subclass, say how to make yours, and run pytest."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.credentials import Credentials
from pg_secrets.errors import AdapterMisconfigured, CredentialsError
from pg_secrets.source import CredentialSource

_CANARY = "canary-in-an-option"


class CredentialAdapterContract:
    """The suite. A test class of yours inherits it and implements the two abstract methods::

        class TestMyAdapter(CredentialAdapterContract):
            def make_adapter(self):
                return MyAdapter.from_config({"ADDRESS": server.address})

            def expected(self):
                return {"user": "app", "password": "secret"}

    Override fixtures as you like: pytest runs every test with a fresh instance.
    """

    @abstractmethod
    def make_adapter(self) -> CredentialAdapter:
        """Return a new adapter whose store answers."""

    @abstractmethod
    def expected(self) -> Mapping[str, Any]:
        """Return libpq keywords the fetched credentials must have.

        Use ``unittest.mock.ANY`` for a user or password that the store invents.
        """

    @pytest.fixture
    def adapter(self) -> Iterator[CredentialAdapter]:
        made = self.make_adapter()
        yield made
        made.close()

    @pytest.fixture
    def fetched(self, adapter: CredentialAdapter) -> Iterator[Credentials]:
        credentials = adapter.fetch()
        yield credentials
        adapter.revoke(credentials)

    def test_has_a_name(self, adapter: CredentialAdapter) -> None:
        """The class has a name, by which messages and settings know it."""
        assert adapter.name

    def test_refuses_an_unknown_option(self, adapter: CredentialAdapter) -> None:
        """A key that means nothing is an error at once, and its value is not shown."""
        with pytest.raises(AdapterMisconfigured) as caught:
            type(adapter).from_config({"SURELY_NO_SUCH_OPTION": _CANARY})
        assert _CANARY not in str(caught.value)

    def test_fetches_what_is_expected(self, fetched: Credentials) -> None:
        """A fetch brings the user, the password and the parameters that the store holds."""
        params = fetched.connection_params()
        expected = self.expected()
        assert expected, "expected() must name at least one keyword"
        assert {key: params.get(key) for key in expected} == dict(expected)

    def test_leaves_the_stamp_to_the_source(self, fetched: Credentials) -> None:
        """An adapter does not number generations."""
        assert fetched.generation == 0

    def test_names_moments_that_are_to_come(self, fetched: Credentials) -> None:
        """What was just fetched expires later than now, if it expires."""
        assert fetched.expires_at is None or fetched.expires_at > time.time()
        assert fetched.lease is None or fetched.lease.duration > 0

    def test_hides_the_password(self, fetched: Credentials) -> None:
        """The password is in no repr and in no pickle."""
        password = str(fetched.password)
        assert password not in repr(fetched)
        assert password not in repr(fetched.lease)
        with pytest.raises(TypeError):
            pickle.dumps(fetched)

    def test_hides_the_password_in_its_own_repr(
        self, adapter: CredentialAdapter, fetched: Credentials
    ) -> None:
        """The adapter's repr does not show what it fetched."""
        assert str(fetched.password) not in repr(adapter)

    def test_logs_no_password(
        self, adapter: CredentialAdapter, caplog: pytest.LogCaptureFixture
    ) -> None:
        """No logger, at any level, is told the password."""
        with caplog.at_level(logging.DEBUG):
            credentials = adapter.fetch()
        adapter.revoke(credentials)
        assert credentials.password is None or credentials.password not in caplog.text

    def test_works_from_another_thread(self, adapter: CredentialAdapter) -> None:
        """What was made in one thread fetches in another."""
        result: list[Credentials | BaseException] = []

        def fetch() -> None:
            try:
                result.append(adapter.fetch())
            except BaseException as error:  # noqa: BLE001 - handed to the test
                result.append(error)

        thread = threading.Thread(target=fetch)
        thread.start()
        thread.join(30.0)
        assert isinstance(result[0], Credentials), result
        adapter.revoke(result[0])

    def test_sees_no_change_where_there_is_none(
        self, adapter: CredentialAdapter, fetched: Credentials
    ) -> None:
        """Right after a fetch the store has nothing newer, or only a fetch can tell."""
        assert adapter.changed(fetched) in (False, None)

    def test_renewal_keeps_the_login(
        self, adapter: CredentialAdapter, fetched: Credentials
    ) -> None:
        """A renewal extends the same login or is refused; it never brings another one."""
        renewed = adapter.renew(fetched)
        assert renewed is None or renewed.fingerprint == fetched.fingerprint

    def test_serves_a_source(self, adapter: CredentialAdapter) -> None:
        """Behind a source it is asked once, and once more when the source is told to."""
        source = CredentialSource(adapter, background=False)
        first = source.get()
        assert source.get() is first
        source.refresh()
        assert source.stats()["fetches"] == 2
        source.give_back(float("inf"))

    def test_gives_back_what_it_fetched(self, adapter: CredentialAdapter) -> None:
        """Giving back what was just fetched is no error, lease or not."""
        adapter.revoke(adapter.fetch())


class UnreachableStoreContract:
    """What an adapter does while its store is away: one more suite, for adapters with a store."""

    @abstractmethod
    def make_unreachable(self) -> CredentialAdapter:
        """Return a new adapter whose store does not answer, or not with anything useful."""

    def test_raises_the_family(self) -> None:
        """Whatever goes wrong arrives as a CredentialsError with a text."""
        adapter = self.make_unreachable()
        try:
            with pytest.raises(CredentialsError) as caught:
                adapter.fetch()
            assert str(caught.value)
        finally:
            adapter.close()
