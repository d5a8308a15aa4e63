"""Programs that are ready to paste: what publishes as a device, for the clients that devices usually have."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Facts:
    """What a program has to know. `ca`, `certificate` and `key` are paths; their `_pem` are what is in them."""

    name: str
    host: str
    port: int
    ca: str
    certificate: str
    key: str
    ca_pem: str
    certificate_pem: str
    key_pem: str

    @property
    def topic(self) -> str:
        """Where it publishes."""
        return f"devices/{self.name}/telemetry"


def paho(facts: Facts) -> str:
    """Python, with paho-mqtt."""
    q = json.dumps
    return f"""import json

import paho.mqtt.client as mqtt

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id={q(facts.name)}, protocol=mqtt.MQTTv5)
client.tls_set(ca_certs={q(facts.ca)}, certfile={q(facts.certificate)}, keyfile={q(facts.key)})
client.connect({q(facts.host)}, {facts.port})
client.loop_start()
sent = client.publish({q(facts.topic)}, json.dumps({{"temperature": 21.5}}), qos=1)
sent.wait_for_publish(10)  # it is on the server's disk
client.disconnect()
client.loop_stop()
"""


def aiomqtt(facts: Facts) -> str:
    """Python, with aiomqtt."""
    q = json.dumps
    return f"""import asyncio
import json

import aiomqtt


async def main():
    tls = aiomqtt.TLSParameters(ca_certs={q(facts.ca)}, certfile={q(facts.certificate)}, keyfile={q(facts.key)})
    async with aiomqtt.Client({q(facts.host)}, {facts.port}, identifier={q(facts.name)}, tls_params=tls) as client:
        await client.publish({q(facts.topic)}, json.dumps({{"temperature": 21.5}}), qos=1)  # on the server's disk


asyncio.run(main())
"""


def esp_idf(facts: Facts) -> str:
    """C, with ESP-IDF's esp-mqtt."""
    return f"""#include "esp_event.h"
#include "mqtt_client.h"

/* Keep this file as you keep the key that is in it. */
{_constants(facts)}
static void on_event(void *argument, esp_event_base_t base, int32_t id, void *data)
{{
    esp_mqtt_event_handle_t event = data;
    if (id == MQTT_EVENT_CONNECTED) {{
        esp_mqtt_client_publish(event->client, "{facts.topic}", "{{\\"temperature\\": 21.5}}", 0, 1, 0);
    }}
}}

void start_mqtt(void) /* once the network is up and the clock is set */
{{
    esp_mqtt_client_config_t config = {{
        .broker.address.uri = "mqtts://{facts.host}:{facts.port}",
        .broker.verification.certificate = CA,
        .credentials.client_id = "{facts.name}",
        .credentials.authentication.certificate = CERTIFICATE,
        .credentials.authentication.key = KEY,
    }};
    esp_mqtt_client_handle_t client = esp_mqtt_client_init(&config);
    esp_mqtt_client_register_event(client, ESP_EVENT_ANY_ID, on_event, NULL);
    esp_mqtt_client_start(client);
}}
"""


def arduino(facts: Facts) -> str:
    """C++, with the Arduino core of the ESP32 and PubSubClient."""
    return f"""#include <WiFiClientSecure.h>
#include <PubSubClient.h>

/* Keep this file as you keep the key that is in it. */
{_constants(facts)}
WiFiClientSecure network;
PubSubClient client(network);

void setup() {{
  // connect WiFi and set the clock (configTime) first: certificates have dates
  network.setCACert(CA);
  network.setCertificate(CERTIFICATE);
  network.setPrivateKey(KEY);
  client.setServer("{facts.host}", {facts.port});
}}

void loop() {{
  if (!client.connected() && !client.connect("{facts.name}")) {{
    delay(5000);
    return;
  }}
  client.publish("{facts.topic}", "{{\\"temperature\\": 21.5}}");
  client.loop();
  delay(10000);
}}
"""


def zephyr(facts: Facts) -> str:
    """C, with Zephyr's MQTT library and TLS credentials."""
    return f"""#include <zephyr/net/mqtt.h>
#include <zephyr/net/tls_credentials.h>

/* Keep this file as you keep the key that is in it. CONFIG_MQTT_LIB_TLS=y */
{_constants(facts)}
#define TAG 1

static const sec_tag_t tags[] = {{TAG}};

void configure(struct mqtt_client *client) /* the broker's address is {facts.host}:{facts.port} */
{{
    tls_credential_add(TAG, TLS_CREDENTIAL_CA_CERTIFICATE, CA, sizeof(CA));
    tls_credential_add(TAG, TLS_CREDENTIAL_PUBLIC_CERTIFICATE, CERTIFICATE, sizeof(CERTIFICATE));
    tls_credential_add(TAG, TLS_CREDENTIAL_PRIVATE_KEY, KEY, sizeof(KEY));
    client->client_id.utf8 = (uint8_t *)"{facts.name}";
    client->client_id.size = sizeof("{facts.name}") - 1;
    client->protocol_version = MQTT_VERSION_3_1_1;
    client->transport.type = MQTT_TRANSPORT_SECURE;
    client->transport.tls.config.peer_verify = TLS_PEER_VERIFY_REQUIRED;
    client->transport.tls.config.sec_tag_list = tags;
    client->transport.tls.config.sec_tag_count = ARRAY_SIZE(tags);
    client->transport.tls.config.hostname = "{facts.host}";
}}

int send(struct mqtt_client *client)
{{
    static const char topic[] = "{facts.topic}", payload[] = "{{\\"temperature\\": 21.5}}";
    struct mqtt_publish_param message = {{
        .message.topic.topic = {{.utf8 = (uint8_t *)topic, .size = sizeof(topic) - 1}},
        .message.topic.qos = MQTT_QOS_1_AT_LEAST_ONCE,
        .message.payload = {{.data = (uint8_t *)payload, .len = sizeof(payload) - 1}},
        .message_id = 1,
    }};
    return mqtt_publish(client, &message);
}}
"""


SNIPPETS: Mapping[str, tuple[str, Callable[[Facts], str]]] = {
    "paho": ("paho.py", paho),
    "aiomqtt": ("aiomqtt.py", aiomqtt),
    "esp-idf": ("esp-idf.c", esp_idf),
    "arduino": ("arduino.ino", arduino),
    "zephyr": ("zephyr.c", zephyr),
}
"""By client: the end of the file's name, and what writes it."""


def _constants(facts: Facts) -> str:
    named = (("CA", facts.ca_pem), ("CERTIFICATE", facts.certificate_pem), ("KEY", facts.key_pem))
    return "".join(f"static const char {name}[] =\n{_literal(text)};\n" for name, text in named)


def _literal(text: str) -> str:
    """A text as C has it, a line a line."""
    return "\n".join(f'    "{line}\\n"' for line in text.strip().splitlines())
