"""`docs/asyncapi.yaml` and `docs/schemas/*.schema.json`, from the structs and the topic table.

    python -m schemas.generate [--check]

Writes them (`make schemas`); with `--check` writes nothing and fails where a file is not what it
would write (`make check`).
"""

import inspect
import json
import re
import sys
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import msgspec

from schemas.announcements import DeviceSaid, PackedReadings, RefusedHeaders
from schemas.bill import BILL_ISSUED, BillIssued
from schemas.command import CommandEvent, CommandRequest
from schemas.cost import BudgetAlert, HomeCost
from schemas.device import Event
from schemas.homesync import Ack, Payload, ack_topic, telemetry_topic
from schemas.presence import DeviceAlert
from schemas.reading import SOURCES, Clock, Reading
from schemas.topics import (
    ALERT,
    COMMAND_EVENT,
    COMMAND_REQUEST,
    COST,
    DEVICE,
    RAW,
    RAW_DLQ,
    READING,
    TOPICS,
    USAGE_1M,
    USAGE_15M,
    RawHeader,
    Topic,
)
from schemas.usage import Quality, UsageWindow, Why

DOCS = Path(__file__).resolve().parents[1] / "docs"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

MESSAGES: Mapping[str, type[msgspec.Struct]] = {
    "reading": Reading,
    "packed_readings": PackedReadings,
    "device_state": DeviceSaid,
    "event": Event,
    "usage_window": UsageWindow,
    "home_cost": HomeCost,
    "bill_issued": BillIssued,
    "budget_alert": BudgetAlert,
    "device_alert": DeviceAlert,
    "command_request": CommandRequest,
    "command_event": CommandEvent,
    "refused_record_headers": RefusedHeaders,
    "homesync_payload": Payload,
    "homesync_ack": Ack,
}
_ENUMS: tuple[type[IntEnum], ...] = (Clock, Quality, Why)

Json = dict[str, Any]

# ---------------------------------------------------------------- JSON Schemas


def json_schema(name: str) -> Json:
    """One message as a JSON Schema that needs no other file."""
    struct = MESSAGES[name]
    _, parts = msgspec.json.schema_components([struct])
    described = {part: _described(part, schema) for part, schema in parts.items()}
    root = described.pop(struct.__name__)
    schema = {"$schema": DIALECT, "$id": _file(name), **root}
    return schema | {"$defs": described} if described else schema


def _described(name: str, schema: Json) -> Json:
    """A component whose description is the docstring without indents; its numbers have names."""
    text = schema.get("description")
    if text is None:
        return schema
    text = inspect.cleandoc(text)
    for enum in _ENUMS:
        if enum.__name__ == name:
            text += "\n\n" + ", ".join(f"{each.value} {each.name}" for each in enum) + "."
    return {**schema, "description": text}


def _file(name: str) -> str:
    return f"{name}.schema.json"


# ---------------------------------------------------------------- AsyncAPI

_CHANNELS = "#/channels/"
_HEADER = {"type": "string"}
_RAW_HEADERS: Json = {
    "type": "object",
    "required": [RawHeader.TOPIC, RawHeader.RECEIVED_AT, RawHeader.SOURCE, RawHeader.SHARD],
    "properties": {
        RawHeader.TOPIC: _HEADER | {"description": "MQTT topic, UTF-8."},
        RawHeader.RECEIVED_AT: _HEADER
        | {"description": "µs since the epoch, UTC; strictly increasing per connector."},
        RawHeader.SOURCE: _HEADER | {"enum": list(SOURCES)},
        RawHeader.SHARD: _HEADER | {"description": "The connector shard that wrote it."},
        RawHeader.PACKET_ID: _HEADER | {"description": "MQTT packet id."},
        RawHeader.DUP: _HEADER
        | {"description": f"In place of {RawHeader.PACKET_ID} when MQTT says redelivered."},
        RawHeader.RETAINED: _HEADER | {"description": "Present on a retained status."},
    },
}
_TICK_HEADERS: Json = {
    "type": "object",
    "required": [RawHeader.SHARD, RawHeader.TICK],
    "properties": {
        RawHeader.SHARD: _HEADER,
        RawHeader.TICK: _HEADER | {"description": "µs since the epoch, UTC."},
    },
}
_EVENT_HEADERS: Json = {
    "type": "object",
    "required": ["ce_source", "content-type"],
    "properties": {"ce_source": _HEADER, "content-type": {"const": "application/json"}},
}
_WINDOW_HEADERS: Json = {
    "type": "object",
    "required": ["ce_id", "ce_type", "ce_source", "content-type"],
    "properties": {
        "ce_id": _HEADER | {"description": "channel_id/window_start_us/revision"},
        "ce_type": _HEADER | {"enum": [USAGE_1M.name, USAGE_15M.name]},
        "ce_source": _HEADER,
        "content-type": {"const": "application/json"},
    },
}
_COST_HEADERS: Json = {
    "type": "object",
    "required": ["ce_id", "ce_type", "ce_source", "content-type"],
    "properties": {
        "ce_id": _HEADER
        | {"description": "home_id/revision, alert_id or bill/home_id/month/version"},
        "ce_type": _HEADER | {"enum": [COST.name, BILL_ISSUED, ALERT.name]},
        "ce_source": _HEADER,
        "content-type": {"const": "application/json"},
    },
}
_COMMAND_HEADERS: Json = {
    "type": "object",
    "required": ["ce_id", "ce_source", "content-type", "source"],
    "properties": {
        "ce_id": _HEADER | {"description": "command_id, of an event command_id/number"},
        "ce_source": _HEADER,
        "content-type": {"const": "application/json"},
        "source": _HEADER
        | {
            "enum": ["commands", "downlink"],
            "description": "commands: it is so; downlink: what the downlink says of it.",
        },
    },
}
_BYTES = {"description": "The original bytes of the MQTT message."}
_NOTHING = {"type": "null"}


def _schema_of(name: str) -> Json:
    return {"$ref": f"./schemas/{_file(name)}"}


def _message(
    title: str, summary: str, payload: Json, headers: Json | None = None, kind: str | None = None
) -> Json:
    message: Json = {"name": title, "summary": summary}
    if kind:
        message["contentType"] = kind
    if headers:
        message["headers"] = headers
    return message | {"payload": payload}


_JSON_TYPE = "application/json"
_BYTES_TYPE = "application/octet-stream"


def _says(struct: type) -> str:
    return " ".join(inspect.cleandoc(struct.__doc__ or "").split("\n\n")[0].split())


_COMPONENTS: Mapping[str, Json] = {
    "rawMessage": _message(
        "rawMessage", "One MQTT publish, as it came.", _BYTES, _RAW_HEADERS, _BYTES_TYPE
    ),
    "tick": _message(
        "tick",
        "Time, written each second by every connector shard to every partition; without a key.",
        _NOTHING,
        _TICK_HEADERS,
    ),
    "refusedRecord": _message(
        "refusedRecord",
        _says(RefusedHeaders),
        _BYTES,
        _schema_of("refused_record_headers"),
        _BYTES_TYPE,
    ),
    "packedReadings": _message(
        "packedReadings",
        _says(PackedReadings),
        _schema_of("packed_readings"),
        _EVENT_HEADERS,
        _JSON_TYPE,
    ),
    "usageWindow": _message(
        "usageWindow", _says(UsageWindow), _schema_of("usage_window"), _WINDOW_HEADERS, _JSON_TYPE
    ),
    "homeCost": _message(
        "homeCost", _says(HomeCost), _schema_of("home_cost"), _COST_HEADERS, _JSON_TYPE
    ),
    "billIssued": _message(
        "billIssued", _says(BillIssued), _schema_of("bill_issued"), _COST_HEADERS, _JSON_TYPE
    ),
    "budgetAlert": _message(
        "budgetAlert", _says(BudgetAlert), _schema_of("budget_alert"), _COST_HEADERS, _JSON_TYPE
    ),
    "deviceAlert": _message(
        "deviceAlert", _says(DeviceAlert), _schema_of("device_alert"), _COST_HEADERS, _JSON_TYPE
    ),
    "deviceState": _message(
        "deviceState", _says(DeviceSaid), _schema_of("device_state"), _EVENT_HEADERS, _JSON_TYPE
    ),
    "commandRequest": _message(
        "commandRequest",
        _says(CommandRequest),
        _schema_of("command_request"),
        _COMMAND_HEADERS,
        _JSON_TYPE,
    ),
    "commandEvent": _message(
        "commandEvent",
        _says(CommandEvent),
        _schema_of("command_event"),
        _COMMAND_HEADERS,
        _JSON_TYPE,
    ),
    "homesyncPayload": _message(
        "homesyncPayload",
        _says(Payload),
        _schema_of("homesync_payload"),
        kind=_JSON_TYPE,
    ),
    "homesyncAck": _message("homesyncAck", _says(Ack), _schema_of("homesync_ack"), kind=_JSON_TYPE),
    "homesyncOnline": _message(
        "homesyncOnline",
        "`online` or `offline`; retained, and the node's will.",
        {"type": "string", "enum": ["online", "offline"]},
        kind="text/plain",
    ),
}
_CARRIED: Mapping[str, Sequence[str]] = {
    RAW.name: ("rawMessage", "tick"),
    RAW_DLQ.name: ("refusedRecord",),
    READING.name: ("packedReadings",),
    USAGE_1M.name: ("usageWindow",),
    USAGE_15M.name: ("usageWindow",),
    COST.name: ("homeCost", "billIssued"),
    ALERT.name: ("budgetAlert", "deviceAlert"),
    DEVICE.name: ("deviceState",),
    COMMAND_REQUEST.name: ("commandRequest",),
    COMMAND_EVENT.name: ("commandEvent",),
}


def asyncapi() -> Json:
    """The whole of `docs/asyncapi.yaml`."""
    channels = {topic.name: _kafka_channel(topic) for topic in TOPICS} | _mqtt_channels()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Meterstream",
            "version": "1",
            "description": (
                "The topics of Meterstream: what nodes of the homesync family publish over MQTT, "
                "and what Kafka carries. Generated by `make schemas`."
            ),
        },
        "defaultContentType": _JSON_TYPE,
        "servers": {
            "kafka": {
                "host": "{bootstrap}",
                "protocol": "kafka",
                "variables": {
                    "bootstrap": {"description": "host:port; METERSTREAM_KAFKA_BOOTSTRAP"}
                },
            },
            "mqtt": {
                "host": "{host}:{port}",
                "protocol": "mqtt",
                "protocolVersion": "5",
                "variables": {
                    "host": {"description": "METERSTREAM_MQTT_HOST"},
                    "port": {"description": "METERSTREAM_MQTT_PORT"},
                },
            },
        },
        "channels": channels,
        "operations": _operations(),
        "components": {"messages": dict(_COMPONENTS)},
    }


def _kafka_channel(topic: Topic) -> Json:
    carried = _CARRIED.get(topic.name, ())
    said = f"{topic.summary} Key: {topic.key}. Kept {_kept(topic)}."
    channel: Json = {
        "address": topic.name,
        "description": said if carried else f"{said} Nothing is written to it yet.",
        "servers": [{"$ref": "#/servers/kafka"}],
    }
    if carried:
        channel["messages"] = _references(carried)
    settings: Json = {}
    for name, value in topic.config.items():
        if name == "cleanup.policy":
            settings[name] = [value]
        else:
            settings[name] = int(value) if value.isdecimal() else value
    binding = {
        "topic": topic.name,
        "partitions": topic.partitions,
        "topicConfiguration": settings,
        "bindingVersion": "0.5.0",
    }
    return channel | {"bindings": {"kafka": binding}}


def _kept(topic: Topic) -> str:
    if topic.config.get("cleanup.policy") == "compact":
        return "for ever, the last of each key (compacted)"
    return f"{int(topic.config['retention.ms']) // 86_400_000} days"


def _references(messages: Sequence[str]) -> Json:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in messages}


_PARAMETERS = {"home": {"description": "The home."}, "node": {"description": "The node in it."}}
_NODE = ("{home}", "{node}")


def _mqtt_channels() -> Json:
    def channel(address: str, summary: str, message: str) -> Json:
        return {
            "address": address,
            "description": summary,
            "servers": [{"$ref": "#/servers/mqtt"}],
            "parameters": dict(_PARAMETERS),
            "messages": _references([message]),
        }

    return {
        "homesync.telemetry": channel(
            telemetry_topic(*_NODE),
            "What a node measured. The last level may be any word.",
            "homesyncPayload",
        ),
        "homesync.online": channel(
            ack_topic(*_NODE).removesuffix("ack") + "online",
            "Whether a node is connected.",
            "homesyncOnline",
        ),
        "homesync.ack": channel(
            ack_topic(*_NODE),
            "What of a node's messages is in Kafka: cumulative, gapless, at most one a second. A "
            "node keeps each message until it is acknowledged here.",
            "homesyncAck",
        ),
    }


def _operations() -> Json:
    """What Meterstream does with each channel: it receives from nodes, and sends the rest."""
    operations: Json = {}
    for name in _CARRIED:
        operations[f"send.{name}"] = {"action": "send", "channel": {"$ref": _CHANNELS + name}}
    for name, action, qos, retain in (
        ("homesync.telemetry", "receive", 1, False),
        ("homesync.online", "receive", 1, True),
        ("homesync.ack", "send", 0, False),
    ):
        operations[f"{action}.{name}"] = {
            "action": action,
            "channel": {"$ref": _CHANNELS + name},
            "bindings": {"mqtt": {"qos": qos, "retain": retain, "bindingVersion": "0.2.0"}},
        }
    return operations


# ---------------------------------------------------------------- writing

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*(?: [A-Za-z0-9(][A-Za-z0-9_.,;()/-]*)*")
_WORDS_WITH_A_MEANING = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def yaml(value: Any, indent: int = 0) -> str:
    """Block-style YAML of plain values; a text that could be read otherwise is quoted as JSON."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        return "".join(f"{pad}{_scalar(k)}:{_nested(v, indent + 1)}" for k, v in value.items())
    if isinstance(value, list) and value:
        return "".join(f"{pad}- {yaml(each, indent + 1).lstrip(' ')}" for each in value)
    return f"{pad}{_scalar(value)}\n"


def _nested(value: Any, indent: int) -> str:
    if isinstance(value, dict | list) and value:
        return "\n" + yaml(value, indent)
    return f" {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if (
        isinstance(value, str)
        and _PLAIN.fullmatch(value)
        and value.lower() not in _WORDS_WITH_A_MEANING
    ):
        return value
    return json.dumps(value, ensure_ascii=False)


def files() -> dict[Path, str]:
    """Every generated file with its text."""
    found = {DOCS / "asyncapi.yaml": "# Generated by `make schemas`.\n" + yaml(asyncapi())}
    for name in MESSAGES:
        text = json.dumps(json_schema(name), indent=2, ensure_ascii=False) + "\n"
        found[DOCS / "schemas" / _file(name)] = text
    return found


def stale() -> list[Path]:
    """Generated files that are missing or not what would be written, and those nobody writes."""
    wanted = files()
    lost = [path for path in (DOCS / "schemas").glob("*") if path not in wanted]
    return lost + [
        path for path, text in wanted.items() if not path.exists() or path.read_text() != text
    ]


def main(arguments: Sequence[str]) -> int:
    if list(arguments) == ["--check"]:
        found = [str(path.relative_to(DOCS.parent)) for path in stale()]
        if found:
            print(f"not what `make schemas` writes: {', '.join(found)}; run it", file=sys.stderr)
        return 1 if found else 0
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
