"""Finding an engine by name."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from channels.layers import BaseChannelLayer, InMemoryChannelLayer, get_channel_layer
from django.db.backends.postgresql import base as postgresql
from django.test import override_settings

from channels_pg_secrets import ChannelLayer
from channels_pg_secrets.engines import Engine, MemoryEngine, PostgresEngine, registry
from channels_pg_secrets.engines.factory import build_engine
from channels_pg_secrets.engines.memory import MemoryChannelLayer
from channels_pg_secrets.engines.registry import find_engine, register_engine
from channels_pg_secrets.errors import UnknownEngine, UnsuitableEngine


class Recorder(Engine):
    """Keeps what it was made with."""

    def channel_layer(self, **options: Any) -> BaseChannelLayer:
        return RecordedLayer(config=self.config, source=self.source, options=options)


class RecordedLayer(BaseChannelLayer):  # type: ignore[misc]
    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.given = given


@pytest.fixture
def project() -> Iterator[types.ModuleType]:
    """A project outside the repo: a package ``myproject`` with whatever a test puts into it."""
    package = types.ModuleType("myproject")
    package.__path__ = []
    engines = types.ModuleType("myproject.engines")
    sys.modules |= {"myproject": package, "myproject.engines": engines}
    yield engines
    for name in [name for name in sys.modules if name.split(".")[0] == "myproject"]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def backend(name: str, wrapper: object) -> None:
    """Make ``name`` a Django database backend."""
    package = types.ModuleType(name)
    package.__path__ = []
    module = types.ModuleType(f"{name}.base")
    module.DatabaseWrapper = wrapper  # type: ignore[attr-defined]
    sys.modules |= {name: package, f"{name}.base": module}


def test_built_ins_come_through_the_entry_points() -> None:
    """``memory`` and ``postgresql`` are found without being registered."""
    assert find_engine("memory").engine is MemoryEngine
    assert find_engine("postgresql").engine is PostgresEngine


def test_a_name_that_two_distributions_offer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's engine takes the place of another's unnoticed."""
    info = tmp_path / "strange-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[channels_pg_secrets.engines]\nmemory = strange:It\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnsuitableEngine, match="strange:It"):
        find_engine("memory")


def test_a_registered_name_goes_before_an_entry_point() -> None:
    """Registering ``memory`` replaces the built-in."""
    register_engine("memory", Recorder)
    assert find_engine("memory").engine is Recorder


def test_register_engine_is_a_decorator_too() -> None:
    """The decorated class is registered and returned."""

    @register_engine("mine")
    class Mine(Recorder):
        pass

    assert find_engine("mine").engine is Mine


@pytest.mark.parametrize("engine", [object(), "a.b", dict, None])
def test_what_is_no_engine_cannot_be_registered(engine: Any) -> None:
    """Neither strings nor foreign classes nor plain objects are taken."""
    if engine is None:
        engine = 3
    with pytest.raises(UnsuitableEngine, match="not an engine"):
        register_engine("mine", engine)


@pytest.mark.parametrize(
    "name",
    ["django.db.backends.postgresql", "channels_pg_secrets.db.postgresql"],
)
def test_a_django_backend_stands_for_the_postgresql_engine(name: str) -> None:
    """Any backend whose vendor is PostgreSQL will do, and is remembered."""
    found = find_engine(name)
    assert (found.engine, found.backend) == (PostgresEngine, name)


def test_a_project_s_own_backend_is_a_django_backend(project: types.ModuleType) -> None:
    """``ENGINE = "myproject.db"`` means ``myproject.db.base.DatabaseWrapper``."""
    backend("myproject.db", type("DatabaseWrapper", (postgresql.DatabaseWrapper,), {}))
    assert find_engine("myproject.db").backend == "myproject.db"


def test_a_backend_for_another_database_is_refused() -> None:
    """SQLite's backend is an error that says which database it is for."""
    with pytest.raises(UnsuitableEngine, match="'sqlite'"):
        find_engine("django.db.backends.sqlite3")


def test_a_backend_with_a_missing_dependency_says_what_is_missing(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken import inside the backend is not taken for an unknown name."""
    (tmp_path / "broken_backend").mkdir()
    (tmp_path / "broken_backend" / "__init__.py").touch()
    (tmp_path / "broken_backend" / "base.py").write_text("import no_such_driver\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnsuitableEngine, match="no_such_driver"):
        find_engine("broken_backend")


def test_a_dotted_path_to_an_engine_class(project: types.ModuleType) -> None:
    """The class is called with config and credentials, and its layer with the options."""
    project.MyEngine = Recorder  # type: ignore[attr-defined]
    layer = ChannelLayer(ENGINE="myproject.engines.MyEngine", QUEUE="q", expiry=5)
    assert layer.given["config"] == {"QUEUE": "q", "expiry": 5}
    assert layer.given["options"] == {"expiry": 5}
    assert layer.given["source"] is None


def test_a_dotted_path_to_a_factory(project: types.ModuleType) -> None:
    """A function gets config and source, and what it returns builds the layer."""
    seen: list[Any] = []

    def make(config: Mapping[str, Any], credentials: Any) -> Engine:
        seen.append((dict(config), credentials))
        return Recorder(config, credentials)

    project.make = make  # type: ignore[attr-defined]
    layer = ChannelLayer(
        ENGINE="myproject.engines.make", CREDENTIALS={"ADAPTER": "env", "URL": "MY_URL"}, A=1
    )
    assert isinstance(layer, RecordedLayer)
    ((config, source),) = seen
    assert config == {"A": 1}
    assert source is layer.given["source"]
    assert source.generation == 0


def test_a_factory_that_makes_no_engine_is_refused(project: types.ModuleType) -> None:
    """What it made instead is named by its type."""
    project.make = lambda config, credentials: {}  # type: ignore[attr-defined]
    with pytest.raises(UnsuitableEngine, match="dict"):
        ChannelLayer(ENGINE="myproject.engines.make")


def test_a_dotted_path_to_a_channel_layer(project: types.ModuleType) -> None:
    """Any channel layer class is called with CONFIG as it is, less ENGINE."""
    layer = ChannelLayer(ENGINE="channels.layers.InMemoryChannelLayer", capacity=7)
    assert type(layer) is InMemoryChannelLayer
    assert layer.capacity == 7
    with pytest.raises(UnsuitableEngine, match="channel layer"):
        build_engine({"ENGINE": "channels.layers.InMemoryChannelLayer"})


def test_a_class_itself_may_be_given(project: types.ModuleType) -> None:
    """``ENGINE`` need not be a string."""
    assert isinstance(ChannelLayer(ENGINE=MemoryEngine), MemoryChannelLayer)


@pytest.mark.parametrize(
    "name",
    ["memroy", "myproject.nothing", "no.such.module.Engine", "", "a b", ".x", "os.path.join.x"],
)
def test_an_unknown_name_lists_the_names_there_are(name: str) -> None:
    """The message lists every registered name and entry point."""
    register_engine("my_custom_backend", Recorder)
    with pytest.raises(UnknownEngine) as caught:
        find_engine(name)
    for known in ("memory", "postgresql", "my_custom_backend"):
        assert known in str(caught.value)


def test_a_misspelt_class_is_looked_for_in_its_module(project: types.ModuleType) -> None:
    """Where the module is there and the class is not, the message says so and names the nearest."""
    project.MyEngine = Recorder  # type: ignore[attr-defined]
    with pytest.raises(
        UnknownEngine,
        match=r"'myproject.engines' has no 'MyEngnie'. Did you mean 'myproject.engines.MyEngine'\?",
    ):
        find_engine("myproject.engines.MyEngnie")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("memroy", "memory"), ("django.db.backends.postgres", "django.db.backends.postgresql")],
)
def test_an_unknown_name_suggests_the_nearest(name: str, meant: str) -> None:
    """A misspelt name is answered with what was probably meant."""
    with pytest.raises(UnknownEngine, match=f"Did you mean '{meant}'"):
        find_engine(name)


def test_a_name_that_is_no_name_is_not_repeated() -> None:
    """A connection URL put into ENGINE by mistake shows its password nowhere."""
    with pytest.raises(UnknownEngine) as caught:
        find_engine("postgresql://someone:canary@host/name")
    assert "canary" not in str(caught.value)


def failing(config: Mapping[str, Any], credentials: Any) -> Engine:
    raise KeyError("canary")


class FailsLater(Recorder):
    def channel_layer(self, **options: Any) -> BaseChannelLayer:
        raise ValueError("canary")


class FailingLayer(BaseChannelLayer):  # type: ignore[misc]
    def __init__(self, **given: Any) -> None:
        raise KeyError("canary")


class Unfinished(Engine):
    pass


@pytest.mark.parametrize(
    ("engine", "text"),
    [
        (failing, r"failed with KeyError in failing, .*test_registry\.py:\d+"),
        (FailsLater, "failed with ValueError in channel_layer, "),
        (FailingLayer, "failed with KeyError in __init__, "),
        (Unfinished, "failed with TypeError: Can't instantiate abstract class"),
    ],
)
def test_an_engine_that_fails_is_an_error_that_says_where(engine: Any, text: str) -> None:
    """Any exception of an engine's own code becomes one of ours, and its text is not repeated.

    Channels would take a KeyError for a layer that is not configured.
    """
    register_engine("mine", engine)
    alias = {"BACKEND": "channels_pg_secrets.ChannelLayer", "CONFIG": {"ENGINE": "mine"}}
    with (
        override_settings(CHANNEL_LAYERS={"default": alias}),
        pytest.raises(UnsuitableEngine, match=f"ENGINE 'mine' {text}") as caught,
    ):
        get_channel_layer()
    assert "canary" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["engines.Mine", "db"])
def test_a_module_that_fails_is_an_error_that_says_where(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A variable that is not set while an engine or backend is imported is named by its line."""
    (tmp_path / "failing" / "db").mkdir(parents=True)
    for file in ("engines.py", "db/base.py"):
        (tmp_path / "failing" / file).write_text("import os\n\nURL = os.environ['NO_SUCH_URL']\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnsuitableEngine, match=r"KeyError in <module>, .*failing/.*\.py:3"):
        ChannelLayer(ENGINE=f"failing.{name}", NAME="db")


def test_a_backend_is_no_engine() -> None:
    """The value of BACKEND under ENGINE is refused by name."""
    with pytest.raises(UnsuitableEngine, match="is a BACKEND"):
        ChannelLayer(ENGINE="channels_pg_secrets.ChannelLayer", NAME="db")
