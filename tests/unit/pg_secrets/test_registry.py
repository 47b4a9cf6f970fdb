from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pg_secrets import (
    AdapterMisconfigured,
    AdapterNotInstalled,
    CredentialAdapter,
    Credentials,
    CredentialsError,
    CredentialSource,
    credential_source,
    register_adapter,
    registry,
)
from pg_secrets.testing.adapter import ScriptedAdapter


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has registries of its own."""
    monkeypatch.setattr(registry, "_adapters", {"scripted": ScriptedAdapter})
    sources: dict[object, CredentialSource] = {}
    monkeypatch.setattr(registry, "_sources", sources)
    yield
    for source in sources.values():
        source.close()


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A third party's installed package, with entry points in our group."""
    (tmp_path / "theirs.py").write_text(
        "from pg_secrets.testing.adapter import ScriptedAdapter\n"
        "class Theirs(ScriptedAdapter):\n    name = 'theirs'\n"
        "def build(config):\n    return Theirs.from_config(config)\n"
        "def wrong(config):\n    return 7\n"
        "def broken(config):\n    raise KeyError('canary')\n"
    )
    (tmp_path / "needy.py").write_text("import surely_no_such_sdk\n")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[pg_secrets.adapters]\ntheirs = theirs:Theirs\nneedy = needy:Needy\ngone = theirs:Gone\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    return tmp_path


def test_equal_configs_share_a_source() -> None:
    """Configs that are equal, nested ones in another order included, have one source."""
    register_adapter("any", lambda config: ScriptedAdapter())
    first = credential_source({"ADAPTER": "any", "A": {"x": [1, 2], "y": 2}, "B": 1})
    assert first is credential_source({"B": 1, "A": {"y": 2, "x": [1, 2]}, "ADAPTER": "any"})
    assert first is not credential_source({"ADAPTER": "any", "A": {"x": [2, 1], "y": 2}, "B": 1})


def test_name_alone_is_a_config() -> None:
    """A name and a mapping with nothing but that name are equal."""
    assert credential_source("scripted") is credential_source({"ADAPTER": "scripted"})


def test_adapter_and_source_are_configs() -> None:
    """An adapter gets one source, and a source is its own."""
    adapter = ScriptedAdapter()
    source = credential_source(adapter)
    assert source.adapter is adapter
    assert credential_source(adapter) is source
    assert credential_source(ScriptedAdapter()) is not source
    assert credential_source(source) is source


def test_closed_source_is_made_anew() -> None:
    """After close() the same config gives a source that works."""
    first = credential_source("scripted")
    first.close()
    assert credential_source("scripted").get().user == "app"


def test_threads_share_the_source() -> None:
    """Threads that ask for the same config at the same moment get the same source."""
    made: list[CredentialSource] = []
    barrier = threading.Barrier(20)

    def ask() -> None:
        barrier.wait(10.0)
        made.append(credential_source({"ADAPTER": "scripted", "USER": "crowd"}))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert len(made) == 20
    assert len({id(source) for source in made}) == 1


def test_nobody_waits_for_a_source_that_is_being_built() -> None:
    """A factory may wait for a thread that registers an adapter and gets a source."""
    got: list[CredentialSource] = []

    def meanwhile() -> None:
        register_adapter("quick", ScriptedAdapter)
        got.append(credential_source("quick"))

    @register_adapter("waiting")
    def waiting(config: Mapping[str, Any]) -> CredentialAdapter:
        thread = threading.Thread(target=meanwhile, daemon=True)
        thread.start()
        thread.join(10.0)
        return ScriptedAdapter()

    credential_source("waiting")
    assert len(got) == 1


def test_source_that_was_built_for_nothing_leaves_the_adapter_open() -> None:
    """Who is late with a source for the same config gets the first, whose adapter stays open."""
    adapter = ScriptedAdapter()
    nested: list[CredentialSource] = []
    configs: list[Mapping[str, Any]] = []

    @register_adapter("same")
    def same(config: Mapping[str, Any]) -> CredentialAdapter:
        configs.append(config)
        if len(configs) == 1:
            nested.append(credential_source("same"))
        return adapter

    assert credential_source("same") is nested[0]
    assert nested[0].get().user == "app"
    assert adapter.closed == 0


def test_source_takes_its_own_keys_and_leaves_the_rest() -> None:
    """TTL and BACKGROUND are the source's; the adapter sees all others and not ADAPTER."""
    seen: list[Mapping[str, Any]] = []

    @register_adapter("noting")
    def noting(config: Mapping[str, Any]) -> CredentialAdapter:
        seen.append(dict(config))
        return ScriptedAdapter()

    source = credential_source(
        {"ADAPTER": "noting", "TTL": "90s", "BACKGROUND": "no", "ADDRESS": "x"}
    )
    assert (source.ttl, source.background) == (90.0, False)
    assert seen == [{"ADDRESS": "x"}]


@pytest.mark.parametrize(
    ("extra", "message"),
    [({"TTL": "soon"}, "TTL.*seconds"), ({"BACKGROUND": "maybe"}, "BACKGROUND.*True or False")],
)
def test_sources_own_keys_are_checked(extra: dict[str, Any], message: str) -> None:
    """A TTL that is none is refused by its name."""
    with pytest.raises(AdapterMisconfigured, match=message):
        credential_source({"ADAPTER": "scripted", **extra})


def test_unknown_key_of_the_adapter_is_refused() -> None:
    """A misspelt option is an error that names the nearest."""
    with pytest.raises(AdapterMisconfigured, match=r"USR \(did you mean USER\?\)"):
        credential_source({"ADAPTER": "scripted", "USR": "app"})


def test_unknown_adapter_lists_those_there_are(distribution: Path) -> None:
    """A misspelt name is answered with the nearest and with all names."""
    with pytest.raises(AdapterMisconfigured, match=r"no adapter 'theris'.*'theirs'.*scripted"):
        credential_source("theris")


@pytest.mark.parametrize("config", [{}, {"ADAPTER": None}, {"ADAPTER": 7}, {"ADAPTER": ""}])
def test_config_without_a_name_is_refused(config: dict[str, Any]) -> None:
    """A mapping that names no adapter is refused with the names there are."""
    with pytest.raises(AdapterMisconfigured, match=r"ADAPTER.*scripted"):
        credential_source(config)


def test_config_of_the_wrong_kind_is_refused_unseen() -> None:
    """What is no config is refused by its type, and not printed."""
    with pytest.raises(AdapterMisconfigured, match="found list") as caught:
        credential_source(["canary"])  # type: ignore[arg-type]
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["theirs", "theirs.Theirs", "theirs:Theirs", "theirs.build", "theirs:build"]
)
def test_entry_points_and_dotted_paths(distribution: Path, name: str) -> None:
    """A third party's adapter is found by entry point, by path to a class and to a function."""
    source = credential_source({"ADAPTER": name, "USER": "they"})
    assert source.adapter.name == "theirs"
    assert source.get().user == "they"


def test_a_name_that_two_distributions_offer_is_refused(distribution: Path) -> None:
    """Nobody's takes another's place unnoticed; the same one found twice is no conflict."""
    for name, value in (("again", "theirs:Theirs"), ("other", "theirs:build")):
        info = distribution / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[pg_secrets.adapters]\ntheirs = {value}\n")
        if name == "again":
            assert credential_source({"ADAPTER": "theirs", "USER": "they"}).get().user == "they"
    with pytest.raises(AdapterMisconfigured, match="theirs:Theirs, theirs:build"):
        credential_source({"ADAPTER": "theirs", "USER": "others"})


def test_class_itself_is_a_name() -> None:
    """ADAPTER may be the class."""
    assert credential_source({"ADAPTER": ScriptedAdapter}).get().user == "app"


def test_registered_name_wins_over_an_entry_point(distribution: Path) -> None:
    """Registering a name replaces the installed adapter of that name."""
    register_adapter("theirs", ScriptedAdapter)
    assert credential_source("theirs").adapter.name == "scripted"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("needy", AdapterNotInstalled, "needy.*surely_no_such_sdk"),
        ("gone", AdapterMisconfigured, "gone.*Gone"),
        ("theirs.Gone", AdapterMisconfigured, "theirs.Gone.*cannot be imported"),
        ("surely_no_such_module.X", AdapterMisconfigured, "surely_no_such_module"),
        ("theirs:wrong", AdapterMisconfigured, "returned int"),
        (
            "pg_secrets.credentials.Lease",
            AdapterMisconfigured,
            "neither a Cred.*the class Lease",
        ),
    ],
)
def test_names_that_lead_nowhere(
    distribution: Path, name: str, error: type[Exception], message: str
) -> None:
    """What cannot be imported or makes no adapter is reported by name and reason."""
    with pytest.raises(error, match=message):
        credential_source(name)


@pytest.mark.parametrize("name", ["theirs:broken", "broken.Adapter"])
def test_foreign_error_is_told_by_type_and_place(distribution: Path, name: str) -> None:
    """Whatever a factory, or a module that is imported, raises arrives as one of the family."""
    (distribution / "broken.py").write_text("raise KeyError('canary')\n")
    with pytest.raises(AdapterMisconfigured, match=r"failed with KeyError at .*\.py:\d+") as caught:
        credential_source({"ADAPTER": name})
    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None


def test_only_classes_and_functions_can_be_registered() -> None:
    """A made adapter is no factory."""
    with pytest.raises(TypeError, match="class or a function"):
        register_adapter("mine", ScriptedAdapter())  # type: ignore[call-overload]


def test_values_of_any_kind_make_a_key() -> None:
    """Options that cannot be hashed are told apart by identity."""

    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

    register_adapter("any", lambda config: ScriptedAdapter(Credentials(user="x")))
    one = Unhashable()
    first = credential_source({"ADAPTER": "any", "OBJECT": one})
    assert first is credential_source({"ADAPTER": "any", "OBJECT": one})
    assert first is not credential_source({"ADAPTER": "any", "OBJECT": Unhashable()})


def test_one_and_true_are_different_values() -> None:
    """Configs are equal when their values are equal in type, too."""
    register_adapter("any", lambda config: ScriptedAdapter())
    first = credential_source({"ADAPTER": "any", "X": 1})
    assert first is not credential_source({"ADAPTER": "any", "X": True})


def test_keys_of_the_registry_show_no_option() -> None:
    """The registry's own keys do not print what they were made of."""
    credential_source({"ADAPTER": "scripted", "PASSWORD": "canary"})
    assert "canary" not in repr(registry._sources)


VAULT = {"ADAPTER": "vault", "ADDRESS": "http://127.0.0.1:1", "KV": "app"}
MISPLACED: list[dict[str, Any]] = [
    {"ADAPTER": "env", "PASSWORD": "hunter2"},
    {"ADAPTER": "env", "URL": "postgresql://app:hunter2@db/x"},
    {"ADAPTER": "files", "DIRECTORY": "/", "PASSWORD": "hunter2"},
    {**VAULT, "AUTH": {"METHOD": "token", "TOKEN_ENV": "hvs.hunter2"}},
    {**VAULT, "AUTH": {"METHOD": "token", "TOKEN_FILE": "hvs.hunter2"}},
]


@pytest.mark.parametrize("config", MISPLACED)
def test_secret_in_the_place_of_a_name_is_not_shown(config: dict[str, Any]) -> None:
    """A password given where a variable or a file is to be named stands in no text."""
    source = credential_source(config)
    with pytest.raises(CredentialsError) as caught:
        source.adapter.fetch()
    assert "hunter2" not in f"{caught.value} {source.adapter!r}"
    assert re.search("option (PASSWORD|URL|TOKEN_ENV|TOKEN_FILE)", str(caught.value))
