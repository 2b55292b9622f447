"""The table of programs: what of the settings stands in their commands."""

from infra.local import StackSettings
from infra.local.programs import KAFKA, instances


def kafka_command(options: str) -> list[str]:
    settings = StackSettings(kafka_jvm_options=options)
    return instances(KAFKA, settings)[0].command(settings)


def test_options_for_kafkas_jvm_are_words_of_their_own_after_ours():
    plain = kafka_command("")
    given = kafka_command("-Xmx2g  -XX:+UseZGC")
    at = plain.index("-cp")
    assert given == [*plain[:at], "-Xmx2g", "-XX:+UseZGC", *plain[at:]]
    assert plain.index("-Xmx512m") < at
    assert all(plain)
