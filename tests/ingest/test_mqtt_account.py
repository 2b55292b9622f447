import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import ValidationError

from ingest.mqtt_account import MqttAccount


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in ("USER", "PASSWORD_FILE", "CA_FILE"):
        monkeypatch.delenv(f"METERSTREAM_MQTT_{name}", raising=False)


def test_without_settings_a_client_stays_anonymous():
    account = MqttAccount()
    client = Client(CallbackAPIVersion.VERSION2)
    account.apply(client)
    assert (account.user, account.password, client.username) == (None, None, None)


def test_the_password_comes_from_its_file(monkeypatch, tmp_path):
    secret = tmp_path / "password"
    secret.write_text("  s3cret\n")
    monkeypatch.setenv("METERSTREAM_MQTT_USER", "meterstream-uplink")
    monkeypatch.setenv("METERSTREAM_MQTT_PASSWORD_FILE", str(secret))
    client = Client(CallbackAPIVersion.VERSION2)
    MqttAccount().apply(client)
    assert (client.username, client.password) == ("meterstream-uplink", "s3cret")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"USER": "x"}, "go together"),
        ({"PASSWORD_FILE": "/dev/null"}, "go together"),
        ({"USER": "x", "PASSWORD_FILE": "/nowhere/password"}, "cannot be read: No such file"),
        ({"CA_FILE": "/nowhere/ca.pem"}, "is no file"),
    ],
)
def test_half_an_account_stops_the_start(monkeypatch, settings, message):
    for name, value in settings.items():
        monkeypatch.setenv(f"METERSTREAM_MQTT_{name}", value)
    with pytest.raises(ValidationError, match=message):
        MqttAccount()
