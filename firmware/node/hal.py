"""A board's hardware: the only file that knows `machine`, `network`, `esp32` and `bluetooth`.

For ESP32 and ESP8266, MicroPython 1.24 or newer. What is wired where stands in `/board.json`:

    {"product": "node-pzem", "hw_rev": "esp32-1", "uart": {"id": 2, "tx": 17, "rx": 16},
     "relays": [26], "switches": [27], "clamp": 34, "button": 0}

Not tried on a board: this file alone is outside the tests on the unix port (docs/firmware.md).
"""

import gc
import json
import os
import sys
import time

import machine
import network
from micropython import const
from node.uptime import Uptime

_WATCHDOG_MS = const(60_000)  # longer than the look-up of a name and one chunk of an update
_LINK_TRIES_MS = const(20_000)
_EPOCH_2000_S = const(946_684_800)  # these ports count from 2000-01-01
_RTC_SET_ABOVE_S = const(788_918_400)  # 2025-01-01, from 2000

ESP8266 = sys.platform == "esp8266"


class RelayPin:
    def __init__(self, number):
        self._pin = machine.Pin(number, machine.Pin.OUT)

    def set(self, closed):
        self._pin.value(1 if closed else 0)


class Serial:
    """The PZEM's line. The ESP8266's only full UART is the console's: it is taken from it."""

    socket = None

    def __init__(self, wiring):
        if ESP8266:
            os.dupterm(None, 1)
            self._uart = machine.UART(0, 9600, timeout=0)
        else:
            self._uart = machine.UART(
                wiring["id"], 9600, tx=wiring["tx"], rx=wiring["rx"], timeout=0
            )

    def write(self, data):
        self._uart.write(data)

    def read(self, most):
        return self._uart.read(most)


class Hal:
    flash = ""
    outbox_folder = "/outbox"

    def __init__(self, account=None):
        """`account` has the network's name and password; None while the node is being set up."""
        with open("/board.json") as file:
            board = json.load(file)
        self.device = {
            "product": board["product"],
            "hw_rev": board["hw_rev"],
            "slot_bytes": board.get("slot_bytes", 262_144),
        }
        self.relays = [RelayPin(number) for number in board.get("relays", [])]
        self.switches = [_switch(number) for number in board.get("switches", [])]
        self.serial = Serial(board.get("uart", {}))
        self._adc = _adc(board["clamp"]) if "clamp" in board else None
        self.clamp = self._clamp_ma if "clamp" in board else None
        self._button = _switch(board["button"]) if "button" in board else None
        self._uptime = Uptime(time.ticks_ms, time.ticks_diff)
        self._clamp = None
        self._account = account
        self._wlan = network.WLAN(network.STA_IF)
        self._wlan.active(True)
        self._link_try_at_ms = 0
        self._watchdog = machine.WDT() if ESP8266 else machine.WDT(timeout=_WATCHDOG_MS)
        try:
            os.mkdir(self.outbox_folder)
        except OSError:
            pass  # it is there

    def log(self, event, **said):
        """On the console, where there is one: the ESP8266's line belongs to the meter."""
        if not ESP8266:
            said["event"] = event
            print(json.dumps(said))

    # ---- time ----

    def up_ms(self):
        return self._uptime.ms()

    def wait(self, ms, client):
        """Until the broker says something, at most `ms`."""
        import select

        if client.pollable is None:
            time.sleep_ms(ms)
            return
        poll = select.poll()
        poll.register(
            client.pollable, select.POLLIN | (select.POLLOUT if client.has_to_write else 0)
        )
        poll.poll(ms)

    def pause(self, ms):
        """Wait without a broker; the watchdog is fed."""
        until_ms = self.up_ms() + ms
        while self.up_ms() < until_ms:
            self.feed()
            time.sleep_ms(200)

    def kept_unix_ms(self):
        """The time, where the RTC kept it over a deep sleep."""
        if machine.reset_cause() != machine.DEEPSLEEP_RESET or time.time() < _RTC_SET_ABOVE_S:
            return None
        return (time.time() + _EPOCH_2000_S) * 1000

    def keep_unix_ms(self, unix_ms):
        if unix_ms is not None:
            year, month, day, hour, minute, second, weekday, _ = time.gmtime(
                unix_ms // 1000 - _EPOCH_2000_S
            )
            machine.RTC().datetime((year, month, day, weekday, hour, minute, second, 0))

    # ---- network ----

    def link_up(self):
        """Whether there is a network; tries anew now and then, without waiting."""
        if self._wlan.isconnected():
            return True
        now_ms = self.up_ms()
        if self._account is not None and now_ms >= self._link_try_at_ms:
            self._link_try_at_ms = now_ms + _LINK_TRIES_MS
            try:
                self._wlan.connect(self._account.ssid, self._account.password)
            except OSError:
                pass  # the radio is busy: the next try
        return False

    def rssi_dbm(self):
        return self._wlan.status("rssi") if self._wlan.isconnected() else None

    # ---- measuring ----

    def _clamp_ma(self, ratio, burden_mohm, gain_permille):
        from node.ct_clamp import CtClamp

        if self._clamp is None:
            self._clamp = CtClamp(self._adc, time.ticks_us, _wait_us)
        return self._clamp.current_ma(ratio, burden_mohm, gain_permille)

    # ---- the rest ----

    def random_bytes(self, count):
        return os.urandom(count)

    def random(self, below):
        return int.from_bytes(os.urandom(4), "little") % below

    def memory_bytes(self):
        gc.collect()
        return gc.mem_alloc()

    @property
    def has_button(self):
        return self._button is not None

    def button_pressed(self):
        return self._button is not None and self._button()

    def feed(self):
        self._watchdog.feed()

    def reset(self):
        machine.reset()

    def deep_sleep(self, ms):
        """On the ESP8266 GPIO16 must be wired to reset."""
        self._wlan.active(False)
        if ESP8266:
            rtc = machine.RTC()
            rtc.irq(trigger=rtc.ALARM0, wake=machine.DEEPSLEEP)
            rtc.alarm(rtc.ALARM0, ms)
            machine.deepsleep()
        else:
            machine.deepsleep(ms)

    # ---- being set up ----

    def open_network(self, name):
        """A network of our own, for the page."""
        access_point = network.WLAN(network.AP_IF)
        access_point.active(True)
        access_point.config(essid=name)

    def try_network(self, ssid, password, within_ms=30_000):
        """The node's address in that network; None if it did not take us in time."""
        self._wlan.connect(ssid, password)
        until_ms = self.up_ms() + within_ms
        while not self._wlan.isconnected():
            self.feed()
            if self.up_ms() >= until_ms:
                return None
            time.sleep_ms(200)
        return self._wlan.ifconfig()[0]

    def name(self):
        return "meterstream-" + "".join(["%02x" % byte for byte in machine.unique_id()[-3:]])


def _switch(number):
    """An input with a pull-up: closed pulls it to ground."""
    pin = machine.Pin(number, machine.Pin.IN, machine.Pin.PULL_UP)
    return lambda: pin.value() == 0


def _adc(number):
    """A function that gives millivolts."""
    if ESP8266:
        adc = machine.ADC(0)
        return lambda: adc.read() * 1000 // 1023
    adc = machine.ADC(machine.Pin(number), atten=machine.ADC.ATTN_11DB)
    return lambda: adc.read_uv() // 1000


def _wait_us(start, offset_us):
    while time.ticks_diff(time.ticks_us(), start) < offset_us:
        pass
