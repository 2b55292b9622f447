"""The node: what it does in a turn of its loop. Boards and PCs differ in `hal` only."""

import gc
import json

from micropython import const
from node import bodies
from node.backoff import Backoff
from node.command import Refused
from node.commands import Commands
from node.configuration import Configuration
from node.delivery import Delivery, envelope
from node.ledger import Ledger
from node.meters import Meters
from node.mqtt_client import Client
from node.outbox import SEGMENT_BYTES, TIMELESS, UNIX, UPTIME, Message, Outbox
from node.relays import Relays, WallSwitch, relay_name
from node.seldom import seldom
from node.store import Store
from node.stream import Stream, tls_context
from node.time_source import TimeSource
from node.wall_clock import WallClock

VERSION = "1.0.0"  # of the built-in application; an image has the one that was signed
_BUSY_WAIT_MS = const(10)
_IDLE_WAIT_MS = const(1_000)
_SWITCH_WAIT_MS = const(20)
_MOST_PENDING = const(60)  # readings that a full flash has not taken
_RESTART_WITHIN_MS = const(3_000)  # of a reboot command; its answer is on the way
_AWAKE_AT_MOST_MS = const(30_000)  # to deliver, when there is deep sleep
_ASK_TIME_EVERY_MS = const(10_000)
_ASKING = "time"  # the outbox, none of flash, whose one message asks for the time


class Node:
    def __init__(self, hal, account, updating=None):
        """`updating` is a `node.updating.Updating`; without one `ota` commands are refused."""
        self._hal = hal
        self._account = account
        self._log = hal.log
        self._updating = updating
        self._version = (updating and updating.version) or VERSION
        self._model = "%s/%s" % (hal.device["product"], hal.device["hw_rev"])
        self._config = Configuration(Store(hal.flash + "/config"))
        self._clock = WallClock()
        self._outbox = Outbox(
            hal.outbox_folder, hal.random_bytes, self._config["outbox_kib"] * 1024 // SEGMENT_BYTES
        )
        self._ledger = Ledger(Store(hal.flash + "/ledger"), len(hal.relays))
        self._relays = Relays(hal.relays, self._ledger)
        self._relays.power_on(self._config["power_on"])
        self._switches = [WallSwitch(is_closed) for is_closed in hal.switches]
        self._meters = Meters(hal.serial, self._config["meters"], self._fault)
        self._context = tls_context(account.ca_der) if account.ca_der else None
        self._client = Client(
            self._open_stream,
            (account.client_id, account.user, account.token),
            (account.topic("online"), b"false"),
            (account.topic("command/+"), account.topic("ack")),
            self._heard,
            Backoff(hal.random),
            self._log,
        )
        self._delivery = Delivery(self._outbox, self._client, account.topic("telemetry/power"))
        self._actions = {
            "reboot": self._reboot,
            "config": self._configure,
            "calibrate": self._calibrate,
            "reset_energy": self._reset_energy,
        }
        if updating is not None:
            self._actions["ota"] = self._update
        self._commands = Commands(
            self._relays, self._ledger, self._clock, self._actions, self._say, self._switched
        )
        self._time = self._time_source()
        self._pending = []  # (kind, at_ms, body) not yet on the flash
        self._clock_kept = False
        self._hello_said = False
        self._greeted = 0  # the connection on which the state was said
        self._at_meter = None  # (id, meters or None) of the command that a meter is doing
        self._restart_at_ms = None
        self._read_at_ms = self._status_at_ms = self._ask_time_at_ms = 0
        self._sleep_from_ms = None
        self.lost = 0  # readings that found no room
        kept_ms = hal.kept_unix_ms()
        if kept_ms is not None:
            self._clock.set_by_server(kept_ms, hal.up_ms())
        self._commands.interrupted(hal.up_ms())

    def run(self):
        """For ever."""
        while True:
            now_ms = self._hal.up_ms()
            self.step(now_ms)
            self._hal.wait(self._wait_ms(now_ms), self._client)

    def step(self, now_ms):
        hal = self._hal
        hal.feed()
        link_up = hal.link_up()
        for index, switch in enumerate(self._switches):
            if switch.step(now_ms):
                self._relays.flip(index)
                self._switched(relay_name(index), "wall", now_ms)
        self._time.step(now_ms, link_up)
        self._client.step(now_ms, link_up)
        self._commands.step(now_ms)
        self._keep_clock()
        self._measure(now_ms)
        self._greet(now_ms)
        self._delivery.step(now_ms)
        self._ask_time(now_ms)
        if self._updating is not None:
            self._look_after_update(now_ms)
        self._report(now_ms)
        self._restart_or_sleep(now_ms)

    def _wait_ms(self, now_ms):
        if self._meters.busy or self._client.has_to_write:
            return _BUSY_WAIT_MS
        if self._switches:
            return _SWITCH_WAIT_MS
        return max(0, min(_IDLE_WAIT_MS, self._read_at_ms - now_ms))

    # ---- measuring ----

    def _measure(self, now_ms):
        if now_ms >= self._read_at_ms and self._meters.begin_round():
            step_ms = self._config["interval_s"] * 1000
            self._read_at_ms = max(now_ms, self._read_at_ms + step_ms)
        found = self._meters.step(now_ms)
        if found is not None:
            values = [(channel, bodies.pzem_values(meter)) for channel, meter in found]
            if self._hal.clamp is not None:
                values.append(("clamp", self._clamp_values()))
            if values:
                self._keep(bodies.measured(values), now_ms)
            gc.collect()  # often, so that the heap is not cut up
        result = self._meters.result()
        if result is not None and self._at_meter is not None:
            self._meter_is_done(result[0], result[1], now_ms)

    def _clamp_values(self):
        from node.ct_clamp import power_dw

        config = self._config
        current_ma = self._hal.clamp(
            config["clamp_ratio"], config["clamp_burden_mohm"], config["clamp_gain_permille"]
        )
        meant_dw = power_dw(current_ma, config["clamp_voltage_dv"], config["clamp_power_factor_c"])
        return bodies.clamp_values(current_ma, meant_dw)

    def _keep(self, body, now_ms):
        unix_ms = self._clock.stamp(now_ms)
        if unix_ms is None:
            self._pending.append((UPTIME, now_ms, body))
        else:
            self._pending.append((UNIX, unix_ms, body))
        if len(self._pending) >= (1 if self._config["sleep_s"] else self._config["batch"]):
            self._write()

    def _write(self):
        written = self._outbox.append(self._pending)
        self._pending = self._pending[written:]
        if len(self._pending) > _MOST_PENDING:
            self.lost += 1
            self._pending.pop(0)
            self._log("reading_lost", lost=self.lost)

    def _keep_clock(self):
        """When the time becomes known, all that waited for it gets its own."""
        if self._clock_kept or not self._clock.known:
            return
        started_ms = self._clock.started_unix_ms
        try:
            self._outbox.clock_known(started_ms)
        except OSError:
            return
        self._pending = [
            (UNIX, started_ms + at, body) if kind == UPTIME else (kind, at, body)
            for kind, at, body in self._pending
        ]
        self._clock_kept = True

    def _fault(self, address, why):
        self._log("bad_frame", address=address, why=why)

    # ---- talking ----

    def _open_stream(self):
        return Stream(self._account.host, self._account.port, self._context)

    def _say(self, tail, payload):
        self._client.say(self._account.topic(tail), payload)

    def _switched(self, name, by, now_ms):
        """A relay moved: its state goes the safe way, with what moved it."""
        body = bodies.said_of_itself({name: self._relays.states[name]}, switched_by=by)
        self._keep(body, now_ms)
        self._write()

    def _greet(self, now_ms):
        """At each connection: we are here. The first time also what we are, acknowledged."""
        if not self._client.up or self._greeted == self._client.connections:
            return
        self._greeted = self._client.connections
        self._client.announce(self._account.topic("online"), b"true")
        if not self._hello_said:
            self._hello_said = True
            body = bodies.said_of_itself(
                self._relays.states, self._version, self._model, self._hal.rssi_dbm()
            )
            self._outbox.append([(TIMELESS, 0, body)])
            self._say_configuration()

    def _ask_time(self, now_ms):
        """Have the server acknowledge something, for the time that comes with it.

        Without NTP a reading at the head of the outbox would wait for a clock that only an
        acknowledgement of what is behind it could bring.
        """
        if self._delivery.waits_for_clock and now_ms >= self._ask_time_at_ms:
            self._ask_time_at_ms = now_ms + _ASK_TIME_EVERY_MS
            asking = Message(1, None, bodies.said_of_itself({}, self._version))
            self._say("telemetry/power", envelope(asking, _ASKING, 1))

    def _report(self, now_ms):
        if now_ms < self._status_at_ms:
            return
        self._status_at_ms = now_ms + self._config["status_s"] * 1000
        said = {
            "uptime_s": now_ms // 1000,
            "rssi_dbm": self._hal.rssi_dbm(),
            "firmware": self._version,
            "model": self._model,
            "memory_bytes": self._hal.memory_bytes(),
            "waiting": self._outbox.waiting,
            "dropped": self._outbox.dropped + self.lost,
            "damaged": self._outbox.damaged,
            "resent": self._delivery.resent,
            "connections": self._client.connections,
            "bad_frames": self._meters.bad_frames,
            "refused": self._client.refused,
        }
        self._log("status", **said)
        if self._client.up:
            self._say("status", json.dumps(said).encode())

    def _say_configuration(self):
        said = dict(self._config.settings)
        said["config_version"] = self._config.version
        self._say("response/config", json.dumps(said).encode())

    def _heard(self, message):
        now_ms = self._hal.up_ms()
        tail = message.topic[len(self._account.topic("")) :]
        if tail == "ack":
            if message.payload is not None:
                self._acknowledged(message.payload, now_ms)
        elif tail.startswith("command/"):
            if message.retained:
                self._log("retained_command")  # an old intent: it must not run at every start
                return
            self._commands.heard(tail[8:], message.payload, message.size, now_ms)

    def _acknowledged(self, payload, now_ms):
        try:
            said = json.loads(payload)
            boot, seq, at_us = said["boot"], said["seq"], said.get("at_us")
        except (ValueError, KeyError, TypeError, AttributeError):
            self._log("bad_ack")
            return
        if isinstance(at_us, int) and self._clock.set_by_server(at_us // 1000, now_ms):
            self._log("time", source="server")
        if boot == _ASKING:
            return
        if not isinstance(seq, int) or not self._delivery.acknowledged(boot, seq, now_ms):
            self._log("foreign_ack")
        elif self._updating is not None and self._delivery.is_own(seq):
            self._updating.confirm()

    # ---- commands ----

    def _reboot(self, _command):
        self._restart_at_ms = self._hal.up_ms() + _RESTART_WITHIN_MS
        return True

    def _configure(self, command):
        self._config.apply(command.parameters)
        self._meters.set_named(self._config["meters"])
        self._time = self._time_source()
        self._say_configuration()
        return True

    def _calibrate(self, command):
        said = command.parameters
        if "to_address" in said:
            self._refuse_busy_meters()
            named = seldom("moving").begin(self._meters, self._config["meters"], said)
            self._at_meter = (command.command_id, named)
            return False
        if set(said) != {"gain_permille"}:
            raise Refused("calibrate takes gain_permille, or from_address and to_address")
        self._config.apply({"clamp_gain_permille": said["gain_permille"]})
        self._say_configuration()
        return True

    def _reset_energy(self, command):
        self._refuse_busy_meters()
        if not self._meters.reset_energy(command.channel):
            raise Refused("no meter is named %r" % (command.channel,))
        self._at_meter = (command.command_id, None)
        return False

    def _refuse_busy_meters(self):
        if self._at_meter is not None:
            raise Refused("another command is at the meters")

    def _meter_is_done(self, done, reason, now_ms):
        command_id, named = self._at_meter
        self._at_meter = None
        if done and named is not None:
            self._meters.set_named(named)
            try:
                self._config.apply({"meters": named})
            except OSError:
                done, reason = False, "the meter has its address, the flash does not know it"
            self._say_configuration()
        self._commands.finish(command_id, "done" if done else "failed", reason, now_ms)

    def _update(self, command):
        unix_ms = self._clock.unix_ms(self._hal.up_ms())
        self._updating.take(command.command_id, command.payload, unix_ms)
        self._restart_at_ms = self._hal.up_ms() + _RESTART_WITHIN_MS
        return False

    def _look_after_update(self, now_ms):
        over = self._updating.answer() if self._client.up else None
        if over is not None:
            self._commands.finish(over[0], over[1], over[2], now_ms)
            self._updating.answered()
        if self._updating.is_overdue(now_ms) and self._restart_at_ms is None:
            self._restart_at_ms = now_ms

    def _time_source(self):
        hal = self._hal
        return TimeSource(
            self._config["ntp_host"], self._clock, hal.random, hal.random_bytes, self._log
        )

    # ---- the end of a turn ----

    def _restart_or_sleep(self, now_ms):
        if self._restart_at_ms is not None and (
            self._client.all_said or now_ms >= self._restart_at_ms
        ):
            self._write()
            self._client.close(now_ms)
            self._hal.reset()
        sleep_s = self._config["sleep_s"]
        if not sleep_s or len(self._relays):
            return  # a relay's commands need a node that is awake
        if self._sleep_from_ms is None:
            self._sleep_from_ms = now_ms
        measured = self._read_at_ms > self._sleep_from_ms and not self._meters.busy
        delivered = self._outbox.waiting < self._config["batch"] or (
            self._client.up and self._delivery.idle and self._client.all_said
        )
        if measured and (delivered or now_ms - self._sleep_from_ms >= _AWAKE_AT_MOST_MS):
            self._write()
            self._client.close(now_ms)
            self._hal.keep_unix_ms(self._clock.unix_ms(now_ms))
            self._hal.deep_sleep(sleep_s * 1000)
