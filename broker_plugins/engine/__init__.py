"""The MQTT engine: packets, sessions, routing, connections and listeners. It knows no amqtt."""
