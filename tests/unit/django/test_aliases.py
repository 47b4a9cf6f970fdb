"""``ENGINE`` at the top level of an alias of ``CHANNEL_LAYERS``."""

from __future__ import annotations

from typing import Any

import pytest
from channels.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    channel_layers,
    get_channel_layer,
)
from channels.layers import ChannelLayerManager as Manager
from django.test import override_settings

from channels_pg_secrets import ChannelLayer
from channels_pg_secrets.aliases import NormalisingManager, teach_channels
from channels_pg_secrets.engines import Engine, register_engine, registry
from channels_pg_secrets.engines.memory import MemoryChannelLayer
from channels_pg_secrets.errors import EngineDisagreement, WrongValue


class GivenLayer(BaseChannelLayer):  # type: ignore[misc]
    def __init__(self, config: Any, options: Any) -> None:
        super().__init__()
        self.config, self.options = dict(config), options


class CustomEngine(Engine):
    def channel_layer(self, **options: Any) -> BaseChannelLayer:
        return GivenLayer(self.config, options)


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    register_engine("my_custom_backend", CustomEngine)


@pytest.mark.parametrize(
    "alias",
    [
        {"ENGINE": "my_custom_backend", "CONFIG": {"QUEUE": "q", "expiry": 5}},
        {
            "BACKEND": "channels_pg_secrets.ChannelLayer",
            "CONFIG": {"ENGINE": "my_custom_backend", "QUEUE": "q", "expiry": 5},
        },
        {
            "BACKEND": "channels_pg_secrets.ChannelLayer",
            "ENGINE": "my_custom_backend",
            "CONFIG": {"ENGINE": "my_custom_backend", "QUEUE": "q", "expiry": 5},
        },
        {"CONFIG": {"ENGINE": "my_custom_backend", "QUEUE": "q", "expiry": 5}},
    ],
)
def test_both_forms_are_equal(alias: dict[str, Any]) -> None:
    """ENGINE beside CONFIG, in CONFIG, or in both means the same, under override_settings too."""
    with override_settings(CHANNEL_LAYERS={"default": alias}):
        layer = get_channel_layer()
        assert isinstance(layer, GivenLayer)
        assert layer.config == {"QUEUE": "q", "expiry": 5}
        assert layer.options == {"expiry": 5}
        assert get_channel_layer() is layer
    assert get_channel_layer() is None


def test_an_alias_without_engine_and_backend_is_postgresql() -> None:
    """CONFIG alone is enough."""
    with override_settings(CHANNEL_LAYERS={"default": {"CONFIG": {"NAME": "db", "capacity": 7}}}):
        layer = get_channel_layer()
    assert type(layer).__name__ == "PostgresChannelLayer"
    assert layer.capacity == 7


def test_postgresql_is_the_default_engine() -> None:
    """channels_pg_secrets.ChannelLayer(**CONFIG) without ENGINE builds the PostgreSQL layer."""
    assert type(ChannelLayer(NAME="db")).__name__ == "PostgresChannelLayer"


def test_other_backends_are_left_alone() -> None:
    """An alias with somebody else's BACKEND works as before."""
    alias = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"expiry": 3}}
    with override_settings(CHANNEL_LAYERS={"default": alias}):
        assert type(get_channel_layer()) is InMemoryChannelLayer


@pytest.mark.parametrize(
    "alias",
    [
        {"ENGINE": "my_custom_backend", "CONFIG": {"A": 1}},
        {
            "BACKEND": "channels_pg_secrets.ChannelLayer",
            "CONFIG": {"ENGINE": "my_custom_backend", "A": 1},
        },
    ],
)
def test_test_config_takes_the_engine_and_no_more(alias: dict[str, Any]) -> None:
    """make_test_backend() builds TEST_CONFIG with the alias's ENGINE, wherever that stands."""
    with override_settings(CHANNEL_LAYERS={"default": {**alias, "TEST_CONFIG": {"B": 2}}}):
        assert channel_layers.make_test_backend("default").config == {"B": 2}


def test_test_config_may_have_an_engine_of_its_own() -> None:
    """ENGINE in TEST_CONFIG goes before the alias's."""
    alias = {"ENGINE": "my_custom_backend", "TEST_CONFIG": {"ENGINE": "memory", "capacity": 2}}
    with override_settings(CHANNEL_LAYERS={"default": alias}):
        layer = channel_layers.make_test_backend("default")
    assert isinstance(layer, MemoryChannelLayer)
    assert layer.capacity == 2


@pytest.mark.parametrize(
    "alias",
    [
        {"ENGINE": "memory", "CONFIG": {"ENGINE": "my_custom_backend"}},
        {"ENGINE": "memory", "BACKEND": "channels.layers.InMemoryChannelLayer"},
    ],
)
def test_engines_that_disagree_are_refused(alias: dict[str, Any]) -> None:
    """Two engines, or an engine and somebody else's backend, are an error that shows both."""
    with (
        override_settings(CHANNEL_LAYERS={"default": alias}),
        pytest.raises(EngineDisagreement, match=r"CHANNEL_LAYERS\['default'\].*'memory'"),
    ):
        get_channel_layer()


def test_a_setting_beside_config_is_refused() -> None:
    """NAME at the top level would be ignored, and so is an error."""
    alias = {"ENGINE": "memory", "NAME": "db"}
    with (
        override_settings(CHANNEL_LAYERS={"default": alias}),
        pytest.raises(WrongValue, match="NAME beside CONFIG"),
    ):
        get_channel_layer()


def test_one_wrong_alias_leaves_the_others_usable() -> None:
    """An error in one alias does not show until that alias is used."""
    layers = {"default": {"ENGINE": "memory"}, "wrong": {"ENGINE": "memory", "CONFIG": 5}}
    with override_settings(CHANNEL_LAYERS=layers):
        assert isinstance(get_channel_layer(), MemoryChannelLayer)
        assert "wrong" in channel_layers
        with pytest.raises(WrongValue, match="must be a dict"):
            get_channel_layer("wrong")


def test_teaching_channels_twice_changes_nothing() -> None:
    """The manager everybody imported is kept, and extended once."""
    kind = type(channel_layers)
    teach_channels()
    assert type(channel_layers) is kind
    assert isinstance(channel_layers, Manager)
    assert [base for base in kind.__mro__ if base is NormalisingManager] == [NormalisingManager]
