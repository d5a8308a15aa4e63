"""Settings."""

import tomllib
from pathlib import Path

import pytest

from fleet.state import StateFolder
from fleetgate.core import open_core
from fleetgate.effects import check_effects
from fleetgate.errors import SettingsError
from fleetgate.settings import Settings, configured_streams, load, to_toml

ROOT = Path(__file__).parents[2]
WSS = '[mqtt]\nwss_bind = "127.0.0.1:0"'


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "f.toml"
    path.write_text(text)
    return path


def test_the_file_in_config_is_up_to_date():
    """config/fleetgate.toml is what the settings generate: run `make config`."""
    assert (ROOT / "config/fleetgate.toml").read_text() == to_toml()


def test_the_file_in_config_says_the_defaults():
    """Reading it changes nothing; and every key of every section is in it."""
    assert load(ROOT / "config/fleetgate.toml", {}) == Settings()
    text = to_toml()
    for section in set(Settings.model_fields) - {"streams"}:
        assert f"[{section}]" in text
    assert "[streams.NAME]" in text
    assert set(tomllib.loads(text)) == set(Settings.model_fields) - {"source", "streams"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[mqtt]\nwss_origins = ["https://a.example"]', "mqtt.wss_origins: has no effect without mqtt.wss_bind"),
        ("[mqtt]\nflapping_connects = 0\nflapping_seconds = 5", "mqtt.flapping_seconds: has no effect"),
        ("[presence]\nflapping_connects = 0\nflapping_seconds = 5", "presence.flapping_seconds: has no effect"),
        ("[history]\nseal = false\nkeep_payload = true", "history.keep_payload: has no effect without history.seal"),
        ("[history]\nseal = false\nseal_minutes = 1", "history.seal_minutes: has no effect"),
        ("[metrics]\nmax_devices = 0\nstale_after = 60", "metrics.stale_after: has no effect"),
        ('[oidc]\nclient_secret = "s"', "oidc.client_secret: has no effect without oidc.issuer"),
        ('[oidc]\nadmins = ["x"]', "oidc.admins: has no effect"),
        ('[http]\nproxies = ["proxy"]', "http.proxies: 'proxy' is no address"),
        (f'{WSS}\nwss_origins = ["*"]', "mqtt.wss_origins: '\\*' is no origin"),
        (f'{WSS}\nwss_origins = ["https://a.example/"]', "mqtt.wss_origins: 'https://a.example/' is no origin"),
        (f'{WSS}\nwss_origins = ["https://a.example:443"]', "browsers leave out the port"),
    ],
)
async def test_a_setting_that_can_have_no_effect_is_refused(tmp_path, text: str, message: str):
    """With its name, before anything is made."""
    settings = load(written(tmp_path, text), {})
    with pytest.raises(SettingsError, match=message):
        async with open_core(settings, StateFolder(tmp_path / "state")):
            pass
    assert not (tmp_path / "state").exists()


def test_settings_that_have_an_effect_together():
    """Each beside what it needs."""
    origins = ["https://a.example", "https://a.example:8443", "capacitor://localhost", "null"]
    check_effects(
        Settings(
            mqtt={"wss_bind": "127.0.0.1:0", "wss_origins": origins, "flapping_seconds": 5},
            http={"proxies": ["*", "::1", "10.0.0.0/24"]},
            oidc={
                "issuer": "https://a.example",
                "client_id": "gate",
                "viewers": ["all"],
                "public_url": "https://b.example",
            },
        )
    )


def test_streams_of_the_settings(tmp_path):
    """As the API has them; files are read, and named where they can't be."""
    (tmp_path / "s.json").write_text('{"type": "object"}')
    (tmp_path / "d.pb").write_bytes(b"\x0a")
    file = tmp_path / "f.toml"
    file.write_text(
        f"[streams.a]\nfilter = 'a'\nschema_file = '{tmp_path}/s.json'\n"
        f"[streams.b]\nfilter = 'b'\ncodec = ['gzip', 'protobuf']\ndescriptor_file = '{tmp_path}/d.pb'\n"
    )
    assert configured_streams(load(file, {})) == {
        "a": {"filter": "a", "schema": {"type": "object"}},
        "b": {"filter": "b", "codec": ["gzip", "protobuf"], "descriptor": "Cg=="},
    }
    file.write_text("[streams.a]\nfilter = 'a'\nschema_file = 'nowhere'\n")
    with pytest.raises(SettingsError, match="streams.a.schema_file: nowhere"):
        configured_streams(load(file, {}))
    file.write_text("[streams.a]\nfilter = 'a'\ncodek = 'cbor'\n")
    with pytest.raises(SettingsError, match="codek"):
        load(file, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[stor]", "unknown key 'stor', did you mean 'store'"),
        ("[store]\nkeepdays = 1", "unknown key 'store.keepdays', did you mean 'keep_days'"),
        ("[store]\nzzz = 1", "known are url"),
        ("[store]\nkeep_days = -1", "store.keep_days"),
        ("[store]\nkeep_days = 'x'", "store.keep_days"),
        ("[mqtt]\nbind = '8883'", "mqtt.bind"),
        ("[mqtt]\nbind = 'localhost:99999'", "mqtt.bind"),
        ("[identity]\nsource = 'name'", "identity.source"),
        ("[[source]]\nurl = 'mqtt://x'\ntopisc = []", "did you mean 'topics'"),
        ("[[source]]", "source.0.url"),
        ("[store", "f.toml"),
        (f"[store]\nkeep_days = {'9' * 5000}", "4300 digits"),
        ("[store]\nkeep_days = true", "store.keep_days"),
        ("[store]\nkeep_days = inf", "store.keep_days"),
        ("[store]\nkeep_days = 1e20", "must be 100000 at most"),
        ("[mqtt]\nqueue_seconds = 1e12", "must be 8640000000 at most"),
        ("[mqtt]\nmax_connections = 9223372036854775808", "mqtt.max_connections"),
        ("[tls]\nnames = ['bücher.example']", "xn--"),
        ("[tls]\nnames = ['localhost', '']", "tls.names"),
        ('[tls]\nnames = ["a\\u0000b"]', "tls.names"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, text: str, message: str):
    """One line with the file, the key, and the near miss."""
    with pytest.raises(SettingsError, match="f.toml") as caught:
        load(written(tmp_path, text), {})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path):
    """A file that was asked for has to be there; the default one need not."""
    with pytest.raises(SettingsError, match="nowhere"):
        load(tmp_path / "nowhere.toml", {})


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A key of the environment counts more than the file; the section's other keys stay."""
    path = written(tmp_path, "[ingest]\nbatch_rows = 7\nbatch_age_ms = 5")
    monkeypatch.setenv("FLEETGATE__INGEST__BATCH_ROWS", "9")
    assert (load(path).ingest.batch_rows, load(path).ingest.batch_age_ms) == (9, 5)
    monkeypatch.setenv("FLEETGATE__INGEST__BATCH_ROW", "9")
    with pytest.raises(SettingsError, match="did you mean 'batch_rows'"):
        load(path)
    monkeypatch.delenv("FLEETGATE__INGEST__BATCH_ROW")
    monkeypatch.setenv("FLEETGATE__TLS__NAMES", "a,b")
    with pytest.raises(SettingsError, match="environment FLEETGATE__TLS__NAMES: a list is written as JSON"):
        load(path)
    monkeypatch.delenv("FLEETGATE__TLS__NAMES")
    monkeypatch.setenv("FLEETGATE__INGST__BATCH_ROWS", "9")
    with pytest.raises(SettingsError, match="FLEETGATE__INGST__BATCH_ROWS.*did you mean 'ingest'"):
        load(path)


def test_secrets_are_stars(tmp_path: Path):
    """A password is in no printed form of the settings."""
    settings = load(written(tmp_path, "[[source]]\nurl = 'mqtt://u@x'\npassword = 'geheim'"), {})
    assert settings.source[0].password.get_secret_value() == "geheim"
    assert "geheim" not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
