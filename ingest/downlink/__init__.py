"""The downlink: commands from Kafka to devices, over MQTT."""
