"""MQTT: the amqtt plugins that know devices by their certificates and hand their messages to the ingester."""
