// MQTT.js against the gate: node mqttjs.cjs URL VERSION FOLDER STREAM. Prints what it saw as JSON; exits 1 on failure.
const fs = require("fs");
const mqtt = require("mqtt");

const [url, version, folder, stream] = process.argv.slice(2);
const five = version === "5";
const file = (name) => fs.readFileSync(`${folder}/${name}`);
const seen = { connack: [], messages: [] };

function connect(name, more = {}) {
  const client = mqtt.connect(url, {
    clientId: name,
    protocolVersion: five ? 5 : 4,
    ca: file("ca.pem"),
    cert: file(`${name}.pem`),
    key: file(`${name}-key.pem`),
    servername: "localhost",
    reconnectPeriod: 0,
    connectTimeout: 10000,
    ...more,
  });
  client.received = [];
  client.on("message", (topic, payload, packet) => {
    client.received.push({ topic, payload: payload.toString().slice(0, 20), size: payload.length, retain: packet.retain });
  });
  return new Promise((resolve, reject) => {
    client.once("connect", (packet) => resolve(Object.assign(client, { present: packet.sessionPresent })));
    client.once("error", reject);
  });
}

async function until(condition, what) {
  for (const start = Date.now(); !condition(); ) {
    if (Date.now() - start > 10000) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const gone = (client) => new Promise((resolve) => (client.connected ? client.once("close", resolve) : resolve()));
const kept = { clean: false, ...(five ? { properties: { sessionExpiryInterval: 300 } } : {}) };

async function main() {
  const back = await connect("back");
  await back.subscribeAsync("devices/dev/#", { qos: 2 });
  let device = await connect("dev", kept);
  await device.subscribeAsync("devices/dev/commands/#", { qos: 2 });
  for (const qos of [0, 1, 2]) {
    await device.publishAsync(stream, JSON.stringify({ q: qos }), { qos });
    await back.publishAsync("devices/dev/commands/x", `${qos}`, { qos });
  }
  await device.publishAsync(stream, JSON.stringify({ x: "y".repeat(256 * 1024 - 8) }), { qos: 1 });
  await until(() => device.received.length === 3, "commands");
  await until(() => back.received.filter((found) => found.topic === stream).length === 4, "telemetry at the back end");
  seen.large = Math.max(...back.received.map((found) => found.size));
  await device.endAsync();
  await back.publishAsync("devices/dev/commands/x", "meanwhile", { qos: 1 });
  device = await connect("dev", kept);
  seen.present = device.present;
  await until(() => device.received.length === 1, "what waited");
  seen.waited = device.received[0].payload;
  await device.publishAsync("devices/dev/events/r", "kept", { qos: 1, retain: true });
  const second = await connect("dev", { will: { topic: "devices/dev/events/w", payload: Buffer.from("gone"), qos: 1 } });
  await gone(device);
  await second.subscribeAsync("devices/dev/events/r", { qos: 1 });
  await until(() => second.received.length === 1, "retained");
  seen.retained = second.received[0].retain;
  await second.publishAsync("devices/dev/events/r", "", { qos: 1, retain: true });
  second.stream.destroy();
  await until(() => back.received.some((found) => found.topic === "devices/dev/events/w"), "will");
  await back.endAsync();
  console.log(JSON.stringify(seen));
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
